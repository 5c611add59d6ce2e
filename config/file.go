package config

import "github.com/hashicorp/hcl/v2"

// The raw* types are the grammar of router.hcl: their tags are what gohcl decodes, what unknown keys are
// told from, and what reference.hcl is checked against. An attribute is kept whole, with its ranges,
// because each is judged on its own. A pointer to a block: at most one; a slice: any number.

type rawFile struct {
	Uplink   *rawUplink   `hcl:"uplink,block"`
	Bridge   *rawBridge   `hcl:"bridge,block"`
	Networks []rawNetwork `hcl:"network,block"`
	Policies []rawPolicy  `hcl:"policy,block"`
	Domus    []rawDomu    `hcl:"domu,block"`
	Host     *rawHost     `hcl:"host,block"`
	Tests    []rawTest    `hcl:"test,block"`
	Control  *rawControl  `hcl:"control,block"`
	Metrics  *rawMetrics  `hcl:"metrics,block"`
	Log      *rawLog      `hcl:"log,block"`
}

type rawUplink struct {
	Name     string         `hcl:"name,label"`
	Gateway4 *hcl.Attribute `hcl:"gateway4,optional"`
	Gateway6 *hcl.Attribute `hcl:"gateway6,optional"`
	Address4 *hcl.Attribute `hcl:"address4,optional"`
	NameAt   hcl.Range      `hcl:"name,label_range"`
	At       hcl.Range      `hcl:",def_range"`
}

type rawBridge struct {
	Name    string         `hcl:"name,label"`
	TAP     *hcl.Attribute `hcl:"tap,optional"`
	MAC     *hcl.Attribute `hcl:"mac,optional"`
	MTU     *hcl.Attribute `hcl:"mtu,optional"`
	Isolate *hcl.Attribute `hcl:"isolate,optional"`
	NameAt  hcl.Range      `hcl:"name,label_range"`
	At      hcl.Range      `hcl:",def_range"`
}

type rawNetwork struct {
	Name     string         `hcl:"name,label"`
	Prefix   *hcl.Attribute `hcl:"prefix,optional"`
	Gateway  *hcl.Attribute `hcl:"gateway,optional"`
	Upstream *hcl.Attribute `hcl:"upstream,optional"`
	Proxy    *rawProxy      `hcl:"proxy,block"`
	RA       *rawRA         `hcl:"ra,block"`
	DHCP     *rawDHCP       `hcl:"dhcp,block"`
	NameAt   hcl.Range      `hcl:"name,label_range"`
	At       hcl.Range      `hcl:",def_range"`
}

type rawProxy struct {
	Answer   *hcl.Attribute `hcl:"answer,optional"`
	Router   *hcl.Attribute `hcl:"router,optional"`
	Override *hcl.Attribute `hcl:"override,optional"`
	TTL      *hcl.Attribute `hcl:"ttl,optional"`
	Timeout  *hcl.Attribute `hcl:"timeout,optional"`
	Announce *hcl.Attribute `hcl:"announce,optional"`
	Source   *hcl.Attribute `hcl:"source,optional"`
	At       hcl.Range      `hcl:",def_range"`
}

type rawRA struct {
	Lifetime *hcl.Attribute `hcl:"lifetime,optional"`
	DNS      *hcl.Attribute `hcl:"dns,optional"`
	OnLink   *hcl.Attribute `hcl:"on_link,optional"`
	At       hcl.Range      `hcl:",def_range"`
}

type rawDHCP struct {
	Lease *hcl.Attribute `hcl:"lease,optional"`
	DNS   *hcl.Attribute `hcl:"dns,optional"`
	At    hcl.Range      `hcl:",def_range"`
}

type rawDomu struct {
	Name      string         `hcl:"name,label"`
	Vif       *hcl.Attribute `hcl:"vif,optional"`
	MAC       *hcl.Attribute `hcl:"mac,optional"`
	IPv4      *hcl.Attribute `hcl:"ipv4,optional"`
	IPv6      *hcl.Attribute `hcl:"ipv6,optional"`
	Policy    *hcl.Attribute `hcl:"policy,optional"`
	Match     *hcl.Attribute `hcl:"match,optional"`
	Networks  *hcl.Attribute `hcl:"networks,optional"`
	Addresses *hcl.Attribute `hcl:"addresses,optional"`
	Prefix6   *hcl.Attribute `hcl:"prefix6,optional"`
	NameAt    hcl.Range      `hcl:"name,label_range"`
	At        hcl.Range      `hcl:",def_range"`
}

type rawPolicy struct {
	Name    string         `hcl:"name,label"`
	Mode    *hcl.Attribute `hcl:"mode,optional"`
	Egress  *rawChain      `hcl:"egress,block"`
	Ingress *rawChain      `hcl:"ingress,block"`
	Limits  *rawLimits     `hcl:"limits,block"`
	NameAt  hcl.Range      `hcl:"name,label_range"`
	At      hcl.Range      `hcl:",def_range"`
}

type rawChain struct {
	Default *hcl.Attribute `hcl:"default,optional"`
	Rules   []rawRule      `hcl:"rule,block"`
	At      hcl.Range      `hcl:",def_range"`
}

type rawRule struct {
	Name   string         `hcl:"name,label"`
	Action *hcl.Attribute `hcl:"action,optional"`
	Proto  *hcl.Attribute `hcl:"proto,optional"`
	Ports  *hcl.Attribute `hcl:"ports,optional"`
	From   *hcl.Attribute `hcl:"from,optional"`
	To     *hcl.Attribute `hcl:"to,optional"`
	NameAt hcl.Range      `hcl:"name,label_range"`
	At     hcl.Range      `hcl:",def_range"`
}

type rawLimits struct {
	Packets   *hcl.Attribute `hcl:"packets,optional"`
	Bandwidth *hcl.Attribute `hcl:"bandwidth,optional"`
	NewFlows  *hcl.Attribute `hcl:"new_flows,optional"`
	Flows     *hcl.Attribute `hcl:"flows,optional"`
}

type rawHost struct {
	Interface *hcl.Attribute `hcl:"interface,optional"`
	Ingress   *rawChain      `hcl:"ingress,block"`
	Uplink    *rawChain      `hcl:"uplink,block"`
	At        hcl.Range      `hcl:",def_range"`
}

type rawTest struct {
	Name   string         `hcl:"name,label"`
	From   *hcl.Attribute `hcl:"from,optional"`
	Src    *hcl.Attribute `hcl:"src,optional"`
	To     *hcl.Attribute `hcl:"to,optional"`
	Dst    *hcl.Attribute `hcl:"dst,optional"`
	Proto  *hcl.Attribute `hcl:"proto,optional"`
	Port   *hcl.Attribute `hcl:"port,optional"`
	Expect *hcl.Attribute `hcl:"expect,optional"`
	Rule   *hcl.Attribute `hcl:"rule,optional"`
	Forge  *hcl.Attribute `hcl:"forge,optional"`
	Open   *hcl.Attribute `hcl:"open,optional"`
	Then   []rawThen      `hcl:"then,block"`
	NameAt hcl.Range      `hcl:"name,label_range"`
	At     hcl.Range      `hcl:",def_range"`
}

type rawThen struct {
	From   *hcl.Attribute `hcl:"from,optional"`
	Src    *hcl.Attribute `hcl:"src,optional"`
	To     *hcl.Attribute `hcl:"to,optional"`
	Dst    *hcl.Attribute `hcl:"dst,optional"`
	Proto  *hcl.Attribute `hcl:"proto,optional"`
	Port   *hcl.Attribute `hcl:"port,optional"`
	Expect *hcl.Attribute `hcl:"expect,optional"`
	Rule   *hcl.Attribute `hcl:"rule,optional"`
	Forge  *hcl.Attribute `hcl:"forge,optional"`
	At     hcl.Range      `hcl:",def_range"`
}

type rawControl struct {
	Socket *hcl.Attribute `hcl:"socket,optional"`
	Group  *hcl.Attribute `hcl:"group,optional"`
}

type rawMetrics struct {
	Listen *hcl.Attribute `hcl:"listen,optional"`
	At     hcl.Range      `hcl:",def_range"`
}

type rawLog struct {
	Level  *hcl.Attribute `hcl:"level,optional"`
	Format *hcl.Attribute `hcl:"format,optional"`
}
