// Package libvirt reads what libvirt tells its hooks of domains.
package libvirt

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Domain is what a domain's XML (libvirt.org/formatdomain.html) says of its network.
type Domain struct {
	UUID       string
	Interfaces []Interface
}

// Interface is an interface of a domain. Where it is of the router's bridge, its texts are single words.
type Interface struct {
	Number    int // in the XML, from 0
	Device    string
	MAC       string   // in small letters
	Addresses []string // from the metadata
	Over      string   // why it is none of the router's bridge; "": it is one
}

// document is the part of the XML that counts. The metadata may hold elements of any name.
type document struct {
	XMLName  xml.Name `xml:"domain"`
	UUID     string   `xml:"uuid"`
	Metadata struct {
		Guests []struct {
			IPs []struct {
				MAC  string `xml:"mac,attr"`
				Text string `xml:",chardata"`
			} `xml:"urn:udrouter ip"`
		} `xml:"urn:udrouter guest"`
	} `xml:"metadata"`
	Interfaces []struct {
		Type string `xml:"type,attr"`
		MAC  struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		Source struct {
			Bridge string `xml:"bridge,attr"`
		} `xml:"source"`
		Target struct {
			Device string `xml:"dev,attr"`
		} `xml:"target"`
	} `xml:"devices>interface"`
}

// Read reads a domain's XML. bridge is the router's.
func Read(r io.Reader, bridge string) (*Domain, error) {
	var doc document
	if err := xml.NewDecoder(r).Decode(&doc); err != nil {
		return nil, fmt.Errorf("reading the domain's XML: %w", err)
	}
	d := &Domain{UUID: doc.UUID}
	if !word(d.UUID) {
		return nil, fmt.Errorf("reading the domain's XML: its uuid is %q", d.UUID)
	}
	addresses := map[string][]string{}
	for _, g := range doc.Metadata.Guests {
		for _, ip := range g.IPs {
			mac := strings.ToLower(ip.MAC)
			addresses[mac] = append(addresses[mac], strings.Fields(ip.Text)...)
		}
	}
	for number, x := range doc.Interfaces {
		i := Interface{Number: number, Device: x.Target.Device, MAC: strings.ToLower(x.MAC.Address)}
		i.Addresses = addresses[i.MAC]
		switch {
		case x.Type != "bridge" && x.Type != "network":
			i.Over = fmt.Sprintf("its type is %s, and udrouter guards ports of its bridge only", x.Type)
		case i.Device == "" || i.MAC == "":
			i.Over = "it has no device or MAC in the XML"
		case x.Source.Bridge != bridge:
			i.Over = fmt.Sprintf("it is on bridge %s, not on %s, the router's", cmp.Or(x.Source.Bridge, "?"), bridge)
		}
		for _, s := range append([]string{i.Device, i.MAC}, i.Addresses...) {
			if i.Over == "" && !word(s) {
				return nil, fmt.Errorf("reading the domain's XML: interface %d has %q, which is no word", number, s)
			}
		}
		d.Interfaces = append(d.Interfaces, i)
	}
	return d, nil
}

// word tells whether a text is a word of a line.
func word(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) })
}
