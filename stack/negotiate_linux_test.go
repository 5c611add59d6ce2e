package stack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtool hands over a structure of linux/ethtool.h that begins with the command and two words, and has n bytes behind them.
func ethtool(t *testing.T, name string, cmd, a, b uint32, n int) []byte {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	data := make([]byte, 12+n)
	for i, v := range []uint32{cmd, a, b} {
		binary.NativeEndian.PutUint32(data[4*i:], v)
	}
	var req struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	req.data = unsafe.Pointer(&data[0])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		t.Fatalf("ethtool command %#x on %s: %v", cmd, name, errno)
	}
	return data
}

// features are what "ethtool -k" says is on.
func features(t *testing.T, name string) map[string]bool {
	t.Helper()
	const most, nameLen, setOfFeatures = 256, 32, 4 // ETH_SS_FEATURES
	names := ethtool(t, name, unix.ETHTOOL_GSTRINGS, setOfFeatures, 0, most*nameLen)
	count := int(binary.NativeEndian.Uint32(names[8:]))
	blocks := ethtool(t, name, unix.ETHTOOL_GFEATURES, most/32, 0, most/32*16)[8:]
	on := map[string]bool{}
	for i := range min(count, most) {
		word, _, _ := bytes.Cut(names[12+i*nameLen:][:nameLen], []byte{0})
		active := binary.NativeEndian.Uint32(blocks[i/32*16+8:])
		on[string(word)] = active>>(i%32)&1 != 0
	}
	return on
}

// Whatever the running kernel can leave to a TAP or TUN, it does, once a queue is attached: partial checksums, TCP of both families with CWR, and UDP, which
// Linux has from 6.2 on.
func TestOffloadsNegotiated(t *testing.T) {
	enterNS(t)
	var u unix.Utsname
	check(t, unix.Uname(&u))
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	tap, err := OpenTAP("udr0", 0, 1)
	check(t, err)
	defer tap.Close()
	tun, err := OpenTUN("udrhost", 0, 1)
	check(t, err)
	defer tun.Close()
	for _, name := range []string{"udr0", "udrhost"} {
		on := features(t, name)
		for f, want := range map[string]bool{
			"tx-checksum-ip-generic": true, "tx-tcp-segmentation": true, "tx-tcp6-segmentation": true, "tx-tcp-ecn-segmentation": true,
			"tx-udp-segmentation": major > 6 || major == 6 && minor >= 2, "tx-udp_tnl-segmentation": false,
		} {
			if on[f] != want {
				t.Errorf("%s: %s is %v", name, f, on[f])
			}
		}
	}
}
