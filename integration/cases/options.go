package cases

import (
	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// optioned is UDP with IPv4 options, as they are.
func (w way) optioned(ttl uint8, options ...byte) Frame {
	return w.frame(func(d, s policy.MAC) []byte {
		b := UDP(d, s, w.src, w.dst, 8)
		for len(options)%4 != 0 {
			options = append(options, 0)
		}
		b = append(append(append([]byte{}, b[:34]...), options...), b[34:]...)
		b[14], b[22] = byte(0x45+len(options)/4), ttl
		word(total4, len(b)-14)(b)
		seal(b[14:])
		return b
	})
}

// IPv4Options are options of the IPv4 header. What would choose the way is refused, and what contradicts the header; all others pass as they are: a
// router whose packets are to stay what they were records nothing in them.
func IPv4Options() (rows []Case) {
	for _, w := range ways {
		if !w.v4() {
			continue
		}
		const loose, strict = 131, 137
		var routes, bad, good []Frame
		for _, typ := range []byte{loose, strict} {
			routes = append(routes, w.optioned(64, typ, 7, 4, 203, 0, 113, 1), w.optioned(64, typ, 7, 8, 203, 0, 113, 1), w.optioned(64, typ, 3, 4),
				w.optioned(64, 1, 1, 1, typ, 11, 4, 192, 0, 2, 11, 203, 0, 113, 1), w.optioned(64, 7, 7, 4, 0, 0, 0, 0, typ, 3, 4), w.optioned(1, typ, 7, 4, 203, 0, 113, 1))
		}
		for _, o := range [][]byte{{7, 0}, {7, 1}, {7, 5, 4}, {7, 255, 4, 0}, {148, 4, 0}, {1, 1, 1, 7}, {68, 40, 5, 0}, {255, 9, 0, 0, 0, 0, 0, 0}, {1, 1, 200}} {
			for len(o)%4 != 0 {
				o = append([]byte{1}, o...) // no end of options behind it
			}
			bad = append(bad, w.optioned(64, o...))
		}
		for _, o := range [][]byte{{1, 1, 1, 1}, {0, 131, 7, 4}, {7, 7, 4, 0, 0, 0, 0}, {7, 7, 8, 192, 0, 2, 1}, {68, 8, 5, 0, 0, 0, 0, 0}, {68, 12, 9, 0xf1, 192, 0, 2, 1, 0, 0, 0, 1},
			{148, 4, 0, 0}, {130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {136, 4, 0, 7}, {82, 12, 0, 1, 0, 0, 0, 0, 192, 0, 2, 1}, {94, 3, 0}, {222, 5, 1, 2, 3}, {7, 39, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
				0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
			good = append(good, w.optioned(64, o...))
		}
		rows = append(rows,
			drops("source routes, "+w.name, "case 66; RFC 7126 4.3", w.from, policy.SourceRoute, routes),
			drops("options that contradict the header, "+w.name, "case 66; RFC 791 3.1", w.from, policy.Malformed, bad),
			through("options of all other kinds, "+w.name, "case 66; RFC 1812 5.3.13; RFC 7126 4", w, good...))
	}
	dst := way{"", One, One, One4, Router4}
	return append(rows,
		drop("a source route to the router", "case 66; RFC 7126 4.3", One, policy.SourceRoute, dst.frame(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv4), &layers.IPv4{Version: 4, TTL: 64, Protocol: 1, SrcIP: One4.AsSlice(), DstIP: Router4.AsSlice(),
				Options: []layers.IPv4Option{{OptionType: 131, OptionLength: 7, OptionData: []byte{4, 203, 0, 113, 1}}}}, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)})
		})))
}
