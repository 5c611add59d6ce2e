package libvirt

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	head = "<domain type='kvm' id='1'>\n  <name>evil</name>\n  <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>\n"
	own  = `<interface type='bridge'><mac address='52:54:00:66:66:66'/><source bridge='xenbr0'/><target dev='vnet9'/></interface>`
	tail = "<devices>" + own + "</devices></domain>"
	evil = `
    <interface type='bridge'>
      <mac address='52:54:00:66:66:66'/>
      <source bridge='xenbr0'/>
      <target dev='vnet5'/>
    </interface>
`
)

// Whatever a domain's owner has written beside its devices, the interfaces are those that it has.
func TestReadHostile(t *testing.T) {
	want := &Domain{UUID: "c7a5fdbd-edaf-9455-926a-d65c16db1809", Interfaces: []Interface{{Device: "vnet9", MAC: "52:54:00:66:66:66"}}}
	for name, text := range map[string]string{
		"nothing":                  "",
		"comment":                  "<metadata><x><!-- \n</metadata>" + evil + "<metadata>\n --></x></metadata>",
		"processing instruction":   "<metadata><x><?p \n</metadata>" + evil + "<metadata>\n ?></x></metadata>",
		"CDATA":                    "<metadata><x><![CDATA[\n</metadata>" + evil + "<metadata>]]></x></metadata>",
		"attribute":                "<metadata><x a='\n&lt;/metadata>" + strings.ReplaceAll(strings.ReplaceAll(evil, "'", "&apos;"), "<", "&lt;") + "'/></metadata>",
		"nested metadata":          "<metadata><a xmlns='urn:a'><metadata>\n</metadata>" + evil + "</a></metadata>",
		"devices in the metadata":  "<metadata><a xmlns='urn:a'><devices>" + evil + "</devices></a></metadata>",
		"domain in the metadata":   "<metadata><domain><devices>" + evil + "</devices></domain></metadata>",
		"beside the devices":       evil,
		"addresses of another's":   "<metadata><guest xmlns='urn:a'><ip mac='52:54:00:66:66:66'>192.0.2.1</ip></guest></metadata>",
		"addresses in another's":   "<metadata><guest xmlns='urn:a'><ip xmlns='urn:udrouter' mac='52:54:00:66:66:66'>192.0.2.1</ip></guest></metadata>",
		"addresses elsewhere":      "<title><guest xmlns='urn:udrouter'><ip mac='52:54:00:66:66:66'>192.0.2.1</ip></guest></title>",
		"addresses in the open":    "<guest xmlns='urn:udrouter'><ip mac='52:54:00:66:66:66'>192.0.2.1</ip></guest>",
		"addresses in an element":  "<metadata><a><guest xmlns='urn:udrouter'><ip mac='52:54:00:66:66:66'>192.0.2.1</ip></guest></a></metadata>",
		"text of the description":  "<description>" + strings.ReplaceAll(evil, "<", "&lt;") + "</description>",
		"another document's begin": "<!-- " + head + " -->",
	} {
		got, err := Read(strings.NewReader(head+text+tail), "xenbr0")
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

// Addresses are those of the interface's MAC, in however many elements.
func TestReadAddresses(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"two":           {"<u:ip mac='52:54:00:66:66:66'> 192.0.2.10\n2001:db8:3:2:1::10 </u:ip>", "[192.0.2.10 2001:db8:3:2:1::10]"},
		"another MAC":   {"<u:ip mac='52:54:00:66:66:67'>192.0.2.10</u:ip>", "[]"},
		"in capitals":   {"<u:ip mac='52:54:00:66:66:66'>2001:DB8::1</u:ip><u:ip mac='52:54:00:66:66:66'>192.0.2.11</u:ip>", "[2001:DB8::1 192.0.2.11]"},
		"not ours":      {"<ip mac='52:54:00:66:66:66'>192.0.2.10</ip>", "[]"},
		"after a break": {"<u:ip mac='52:54:00:66:66:66'>192.0.2.10 <!-- vnet5 -->192.0.2.11</u:ip>", "[192.0.2.10 192.0.2.11]"},
	} {
		d, err := Read(strings.NewReader(head+"<metadata><u:guest xmlns:u='urn:udrouter'>"+c.text+"</u:guest></metadata>"+tail), "xenbr0")
		if err != nil || fmt.Sprint(d.Interfaces[0].Addresses) != c.want {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

// What is no domain, or would be more than a word of the hook's line, is an error.
func TestReadRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"nothing":    {"", "EOF"},
		"cut off":    {head, "EOF"},
		"no domain":  {"<network><uuid>a</uuid></network>", "expected element type <domain>"},
		"no uuid":    {"<domain>" + tail, `its uuid is ""`},
		"two words":  {head + strings.Replace(tail, "vnet9", "vnet9 vnet5", 1), `"vnet9 vnet5", which is no word`},
		"two lines":  {head + strings.Replace(tail, "66:66:66", "66&#10;0 vnet5", 1), "which is no word"},
		"an escape":  {strings.Replace(head, "c7a5", "c7a5&#x202e;", 1) + tail, "its uuid is"},
		"an address": {head + "<metadata><guest xmlns='urn:udrouter'><ip mac='52:54:00:66:66:66'>192&#x200b;</ip></guest></metadata>" + tail, "which is no word"},
	} {
		if _, err := Read(strings.NewReader(c.text), "xenbr0"); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
