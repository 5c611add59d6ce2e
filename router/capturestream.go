package router

import (
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"udrouter/stack"
)

// CaptureRecord is a line of GET /v1/capture?format=json, and of `udrouter capture --json`. Fields are only ever added.
type CaptureRecord struct {
	At      time.Time `json:"at"`
	Link    string    `json:"link"`    // on which it has arrived
	Verdict string    `json:"verdict"` // "accept", "drop" or "router"
	Reason  string    `json:"reason"`  // "": it was not dropped
	Comment string    `json:"comment"` // all of it for a person
	From    string    `json:"from"`    // guest; "": none
	To      string    `json:"to"`
	Length  int       `json:"length"` // of the frame, in bytes
	GSOSize int       `json:"gso_size"`
	Missed  uint64    `json:"missed"` // frames before this one
	Data    []byte    `json:"data"`   // its first bytes, in base64
}

// recorder writes frames for who captures.
type recorder interface {
	record(*captured) error
	flush() error
}

// answerCapture answers with frames until the one who asks has as many as he wanted, or goes, or the router ends.
func (r *Router) answerCapture(w http.ResponseWriter, req *http.Request) {
	c, err := r.newCapture(req.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := r.beginCapture(c); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer r.endCapture(c)
	conn := http.NewResponseController(w)
	_ = conn.SetWriteDeadline(time.Time{}) // who stops reading for a while misses frames
	out, kind, err := r.recorder(c, w)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kind)
	if err := r.stream(c, out, conn, req); err != nil {
		r.log.Debug("a capture has ended", "error", err)
	}
}

func (r *Router) stream(c *capture, out recorder, conn *http.ResponseController, req *http.Request) error {
	for n := 0; c.limit == 0 || n < c.limit; {
		if len(c.full) == 0 {
			if err := out.flush(); err != nil {
				return err
			}
			if err := conn.Flush(); err != nil {
				return err
			}
		}
		select {
		case <-req.Context().Done():
			return nil
		case s := <-c.full:
			err := out.record(s)
			c.free <- s
			if err != nil {
				return err
			}
			n++
		}
	}
	return out.flush()
}

func (r *Router) recorder(c *capture, w io.Writer) (recorder, string, error) {
	if c.json {
		return &jsonRecorder{r.linkNames(), json.NewEncoder(w)}, "application/x-ndjson", nil
	}
	p := &pcapRecorder{links: r.linkNames()}
	// The kinds of links are those of package stack; each has an Ethernet header, that of the TUN with no addresses.
	sides := [...]struct {
		side stack.Side
		what string
	}{{stack.UplinkSide, "uplink"}, {stack.Guests, "guests"}, {stack.Host, "host"}}
	for i, s := range sides {
		p.ids[s.side] = i
		of := pcapgo.NgInterface{Name: p.links[s.side], Description: s.what, LinkType: layers.LinkTypeEthernet, SnapLength: uint32(c.snap), TimestampResolution: 9}
		var err error
		if i == 0 {
			p.w, err = pcapgo.NewNgWriterInterface(w, of, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "udrouter " + Version}})
		} else if p.links[s.side] != "" {
			_, err = p.w.AddInterface(of)
		}
		if err != nil {
			return nil, "", err
		}
	}
	return p, "application/x-pcapng", nil
}

// pcapRecorder writes pcapng (draft-ietf-opsawg-pcapng).
type pcapRecorder struct {
	links [stack.Host + 1]string
	ids   [stack.Host + 1]int
	w     *pcapgo.NgWriter
}

func (p *pcapRecorder) record(s *captured) error {
	o := pcapgo.NgPacketOptions{Comments: []string{s.comment(&p.links)}, Flags: &pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}}
	if s.missed > 0 {
		o.DropCount = &s.missed
	}
	return p.w.WritePacketWithOptions(gopacket.CaptureInfo{Timestamp: s.at, CaptureLength: len(s.data), Length: s.length, InterfaceIndex: p.ids[s.from]}, s.data, o)
}

func (p *pcapRecorder) flush() error { return p.w.Flush() }

type jsonRecorder struct {
	links [stack.Host + 1]string
	w     *json.Encoder
}

func (j *jsonRecorder) record(s *captured) error {
	r := CaptureRecord{At: s.at, Link: j.links[s.from], Verdict: s.fate.verdict(), Comment: s.comment(&j.links), From: s.src, To: s.dst, Length: s.length,
		GSOSize: int(s.offload.GSOSize), Missed: s.missed, Data: s.data}
	if s.fate.reason != 0 {
		r.Reason = s.fate.reason.String()
	}
	return j.w.Encode(r)
}

func (j *jsonRecorder) flush() error { return nil }
