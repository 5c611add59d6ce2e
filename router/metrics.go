package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"udrouter/config"
)

// Who scrapes shares the machine with what forwards: so many connections at a time, and so many answers. Anybody on this machine may connect: a connection has
// one answer, so that none keeps others waiting for longer than it takes to ask and to be answered.
const (
	scrapeConns   = 16
	scrapeAnswers = 2
	scrapeAsk     = 2 * time.Second
	scrapeAnswer  = 7 * time.Second
	scrapeEnd     = time.Second // for those who ask when the router ends
)

// listenOf is where a configuration has metrics scraped; "" for nowhere.
func listenOf(c *config.Config) string {
	if c.Metrics == nil {
		return ""
	}
	return c.Metrics.Listen
}

// ListenMetrics opens what metrics are scraped from; nil where the configuration has none. A Unix socket is the control socket's group's.
func ListenMetrics(c *config.Config) (net.Listener, error) {
	if c.Metrics == nil {
		return nil, nil
	}
	network, address := c.Metrics.Address()
	if network == "unix" {
		return listenUnix(address, c.Control.Group, "socket of metrics", "metrics.listen")
	}
	l, err := net.Listen(network, address)
	if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EPERM) {
		return nil, fmt.Errorf("listening on %s for metrics: %w: this process may have no IP socket; under systemd copy /usr/share/doc/udrouter/examples/systemd/metrics.conf to "+
			"/etc/systemd/system/udrouter.service.d, or listen on a socket: \"unix:/run/udrouter/metrics.sock\"", address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s for metrics: %w: set metrics.listen to what is free, or take the block out", address, err)
	}
	return l, nil
}

// serveMetrics answers GET /metrics until ctx ends, with Status as it is then: to who asks for OpenMetrics in that format, to others in Prometheus' own.
func (r *Router) serveMetrics(ctx context.Context) error {
	registry := prometheus.NewRegistry()
	if err := registry.Register(&collector{router: r}); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: scrapeAnswers, ErrorHandling: promhttp.ContinueOnError, ErrorLog: r.complaints(),
	}))
	server := &http.Server{Handler: ownHost(r.Metrics, mux), ErrorLog: r.complaints(), ReadTimeout: scrapeAsk, WriteTimeout: scrapeAnswer, MaxHeaderBytes: 1 << 14}
	server.SetKeepAlivesEnabled(false)
	var open sync.WaitGroup // connections
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Done()
		}
	}
	// At the end the listener is closed, and who has been let in is answered: another process may go on with the socket, and no scrape is to fail for that.
	// Shutdown would not do, after which a request that has just come is not answered any more.
	l := netutil.LimitListener(r.Metrics, scrapeConns)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	err := server.Serve(l)
	if ctx.Err() == nil {
		return err
	}
	last := time.AfterFunc(scrapeEnd, func() { server.Close() })
	defer last.Stop()
	open.Wait()
	return nil
}

// OwnHost tells whether a request's host is this machine by a loopback address, or as localhost.
func OwnHost(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	a, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && a.IsLoopback()
}

// ownHost lets in who asks by this machine's own address, so that no page in a browser on it gets an answer by a name that leads here (DNS rebinding). A browser
// reaches no Unix socket.
func ownHost(l net.Listener, next http.Handler) http.Handler {
	if _, tcp := l.Addr().(*net.TCPAddr); !tcp {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !OwnHost(req.Host) {
			http.Error(w, "ask by a loopback address, or as localhost", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// metric is a family of what is scraped.
type metric struct {
	name, help string
	counter    bool
	labels     []string
	desc       *prometheus.Desc
}

var metricFamilies []*metric

func newMetric(counter bool, name, help string, labels ...string) *metric {
	m := &metric{"udrouter_" + name, help, counter, labels, prometheus.NewDesc("udrouter_"+name, help, labels, nil)}
	metricFamilies = append(metricFamilies, m)
	return m
}

// The families. What belongs to a guest has its name as the label domu, and reasons are policy.Reason's words: there are as many series as guests, times the
// reasons that they met. All packets and bytes count a GSO frame once, as Status does.
var (
	metricBuildInfo  = newMetric(false, "build_info", "The program's version; the value is 1.", "version")
	metricStarted    = newMetric(false, "start_time_seconds", "When the router was started, before all takeovers, in seconds since 1970.")
	metricWarnings   = newMetric(false, "warnings", "Warnings that stand in the status.")
	metricGoroutines = newMetric(false, "goroutines", "Goroutines of the process.")
	metricHeapBytes  = newMetric(false, "heap_objects_bytes", "Memory of the process's objects, those that nobody needs any more included.")

	metricLinkRxPackets = newMetric(true, "link_receive_packets_total", "Frames that a link has received.", "link")
	metricLinkTxPackets = newMetric(true, "link_transmit_packets_total", "Frames that a link has sent.", "link")
	metricLinkRxBytes   = newMetric(true, "link_receive_bytes_total", "Bytes that a link has received.", "link")
	metricLinkTxBytes   = newMetric(true, "link_transmit_bytes_total", "Bytes that a link has sent.", "link")
	metricLinkErrors    = newMetric(true, "link_errors_total", "System calls of a link that have failed.", "link")
	metricLinkReopens   = newMetric(true, "link_reopens_total", "How often a link was opened anew.", "link")
	metricLinkDrops     = newMetric(true, "link_dropped_packets_total", "Packets that a link itself has dropped; udrouter_dropped_packets_total has them as well.", "link", "reason")
	metricForeignMAC    = newMetric(true, "foreign_mac_frames_total", "Frames with a foreign source MAC that were kept off the uplink.")

	metricDomuRxPackets = newMetric(true, "domu_receive_packets_total", "Frames that a guest was sent.", "domu")
	metricDomuTxPackets = newMetric(true, "domu_transmit_packets_total", "Frames that a guest has sent, dropped ones among them.", "domu")
	metricDomuRxBytes   = newMetric(true, "domu_receive_bytes_total", "Bytes that a guest was sent.", "domu")
	metricDomuTxBytes   = newMetric(true, "domu_transmit_bytes_total", "Bytes that a guest has sent, dropped ones among them.", "domu")
	metricDomuFlows     = newMetric(false, "domu_flows", "Flows that a guest's share has now.", "domu")
	metricDomuDrops     = newMetric(true, "domu_dropped_packets_total", "Packets from or to a guest that did not pass.", "domu", "reason")
	metricDomuWould     = newMetric(true, "domu_would_drop_packets_total", "Packets from or to a guest that its policy in shadow mode would have refused.", "domu", "reason")

	metricDrops     = newMetric(true, "dropped_packets_total", "Packets that did not pass.", "reason")
	metricWouldDrop = newMetric(true, "would_drop_packets_total", "Packets that policies in shadow mode would have refused.", "reason")

	metricFlows       = newMetric(false, "flows", "Flows by who forwards their packets: the router, or the kernel for it.", "tier")
	metricFlowsLimit  = newMetric(false, "flows_limit", "Flows that there may be.")
	metricTierPackets = newMetric(true, "tier_packets_total", "Packets that went the way which their flow remembers: in the router, or in the kernel. The rest was decided and looked up.", "tier")

	metricHostPackets = newMetric(true, "host_uplink_packets_total", "Packets of no known flow that a rule of host.uplink has decided on; the default has no name.", "rule", "action")
	metricHostBytes   = newMetric(true, "host_uplink_bytes_total", "Bytes of those packets, from the IP header on.", "rule", "action")

	metricCaptures = newMetric(false, "captures", "Captures that go on.")
	metricCaptured = newMetric(true, "captured_frames_total", "Frames that captures have taken.")
	metricMissed   = newMetric(true, "capture_missed_frames_total", "Frames that captures have missed, since nobody read what there was.")

	metricReloads       = newMetric(true, "reloads_total", "Reloads that went well.")
	metricReloadSuccess = newMetric(false, "last_reload_successful", "Whether the last reload went well: 1 or 0. There was none where this is missing.")
	metricReloadTime    = newMetric(false, "last_reload_timestamp_seconds", "When the last reload was, in seconds since 1970.")
	metricTakeoverGap   = newMetric(false, "takeover_gap_seconds", "How long nobody forwarded when this process took over from another; 0 where it did not.")
)

// collector makes metrics of a router's status.
type collector struct {
	router *Router

	mu   sync.Mutex // of scrapes at the same time none may bring what another has overtaken
	host map[[2]string]risen
}

// risen is what was counted by a counter that begins anew with each reload, as the kernel's of host.uplink do.
type risen struct{ last, before HostCount }

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range metricFamilies {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	s := c.router.Status()
	host := c.hostCounts(s.HostUplink)
	c.mu.Unlock()
	say := func(m *metric, value float64, labels ...string) {
		kind := prometheus.GaugeValue
		if m.counter {
			kind = prometheus.CounterValue
		}
		v, err := prometheus.NewConstMetric(m.desc, kind, value, labels...)
		if err != nil {
			v = prometheus.NewInvalidMetric(m.desc, err)
		}
		out <- v
	}
	sayAll := func(m *metric, counts map[string]uint64, labels ...string) {
		for word, n := range counts {
			say(m, float64(n), append(labels, word)...)
		}
	}
	say(metricBuildInfo, 1, s.Version)
	say(metricStarted, seconds(c.router.started))
	say(metricWarnings, float64(len(s.Warnings)))
	say(metricGoroutines, float64(s.Process.Goroutines))
	say(metricHeapBytes, float64(s.Process.Heap))
	for _, l := range s.Links {
		say(metricLinkRxPackets, float64(l.RxPackets), l.Name)
		say(metricLinkTxPackets, float64(l.TxPackets), l.Name)
		say(metricLinkRxBytes, float64(l.RxBytes), l.Name)
		say(metricLinkTxBytes, float64(l.TxBytes), l.Name)
		say(metricLinkErrors, float64(l.Errors), l.Name)
		say(metricLinkReopens, float64(l.Reopened), l.Name)
		sayAll(metricLinkDrops, l.Reasons, l.Name)
	}
	say(metricForeignMAC, float64(s.ForeignMAC))
	for _, d := range s.Domus {
		say(metricDomuRxPackets, float64(d.RxPackets), d.Name)
		say(metricDomuTxPackets, float64(d.TxPackets), d.Name)
		say(metricDomuRxBytes, float64(d.RxBytes), d.Name)
		say(metricDomuTxBytes, float64(d.TxBytes), d.Name)
		say(metricDomuFlows, float64(d.Flows), d.Name)
		sayAll(metricDomuDrops, d.Reasons, d.Name)
		sayAll(metricDomuWould, d.WouldDrop, d.Name)
	}
	sayAll(metricDrops, s.Drops)
	sayAll(metricWouldDrop, s.WouldDrop)
	say(metricFlows, float64(max(s.Flows.Active-s.Flows.Offloaded, 0)), "router")
	say(metricFlows, float64(s.Flows.Offloaded), "kernel")
	say(metricFlowsLimit, float64(s.Flows.Max))
	say(metricTierPackets, float64(s.Flows.Hits), "router")
	say(metricTierPackets, float64(s.Flows.OffloadHits), "kernel")
	for key, n := range host {
		say(metricHostPackets, float64(n.Packets), key[:]...)
		say(metricHostBytes, float64(n.Bytes), key[:]...)
	}
	say(metricCaptures, float64(s.Capture.Active))
	say(metricCaptured, float64(s.Capture.Frames))
	say(metricMissed, float64(s.Capture.Missed))
	say(metricReloads, float64(s.Reloads))
	if last := s.LastReload; last != nil {
		ok := 0.
		if last.Error == "" {
			ok = 1
		}
		say(metricReloadSuccess, ok)
		say(metricReloadTime, seconds(last.At))
	}
	say(metricTakeoverGap, s.Gap)
}

// seconds is a time in seconds since 1970.
func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// hostCounts are those of the rules of host.uplink by their name and action, which never fall as long as the rule is there: what was seen of a counter
// before it began anew is added. What it had counted between the last scrape and that is lost.
// The caller holds mu, from before it has read rules.
func (c *collector) hostCounts(rules []HostRuleStatus) map[[2]string]HostCount {
	next, sums := map[[2]string]risen{}, map[[2]string]HostCount{}
	for _, rule := range rules {
		key := [2]string{rule.Rule, rule.Action}
		h := c.host[key]
		if rule.Packets < h.last.Packets || rule.Bytes < h.last.Bytes {
			h.before = HostCount{h.before.Packets + h.last.Packets, h.before.Bytes + h.last.Bytes}
		}
		h.last = HostCount{rule.Packets, rule.Bytes}
		next[key] = h
		sums[key] = HostCount{h.before.Packets + h.last.Packets, h.before.Bytes + h.last.Bytes}
	}
	if len(rules) > 0 {
		c.host = next
	}
	return sums
}
