package preflight

import "github.com/vishvananda/netlink"

// addVeth makes a pair of links in the network namespace of this thread.
func addVeth() error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b"})
}
