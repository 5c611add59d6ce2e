package doctor

import "path/filepath"

func (m *machine) checkFile() (list []Finding) {
	if m.file == nil {
		return nil
	}
	if m.Invalid {
		list = append(list, problem("udrouter check -c "+m.ConfigFile+" says what is wrong", "%s is no valid configuration: the router does not start with it, and what needs it was not looked at", m.ConfigFile))
	}
	if m.file.Mode().Perm()&0o022 != 0 {
		list = append(list, problem("chmod go-w "+m.ConfigFile, "%s may be written by others than its owner (mode %#o), who decide with it what reaches guests and dom0", m.ConfigFile, m.file.Mode().Perm()))
	}
	if m.fileUID != 0 {
		list = append(list, problem("chown root "+m.ConfigFile, "%s belongs to user %d, who decides with it what reaches guests and dom0", m.ConfigFile, m.fileUID))
	}
	return list
}

func (m *machine) checkRouter() (list []Finding) {
	switch {
	case m.running == nil:
	case m.Config != nil && m.running.Bridge != "" && m.running.Bridge != m.Config.Bridge.Name:
		list = append(list, problem("stop it, or look with its own configuration (-c)", "a udrouter runs for bridge %s (pid %d), and one network namespace has one", m.running.Bridge, m.running.PID))
	case m.Router.Err != nil:
		list = append(list, problem("give its socket with --socket, or be root or in the group that control.group names", "a udrouter runs (pid %d), but does not answer: %v", m.running.PID, m.Router.Err))
	}
	for _, w := range m.Router.Warnings {
		list = append(list, warning("see the router's log", "the router warns: %s", w))
	}
	return list
}

func (m *machine) checkLeftovers() (list []Finding) {
	for _, path := range m.left {
		list = append(list, warning("udrouter run -c FILE: the next start puts right what was left, and its end what was there before",
			"a run was killed, and what it set in dom0's kernel is still there; nothing is forwarded (%s)", filepath.Base(path)))
	}
	if m.guarded && m.running == nil && len(m.left) == 0 {
		list = append(list, problem("give the directory of that run with --state; if there was none, nft delete table FAMILY udrouter for netdev, inet and bridge",
			"there are nftables tables of a udrouter, but %s knows of no run", m.StateDir))
	}
	return list
}

func (m *machine) checkForeign() []Finding {
	if m.Router.ForeignMAC == 0 {
		return nil
	}
	return []Finding{problem("report it with the router's log: this is a defect of udrouter, though nothing has left", "%d frames with a MAC other than the uplink's were kept off it", m.Router.ForeignMAC)}
}

func (m *machine) checkDaemons() (list []Finding) {
	does := map[string]string{"radvd": "advertises itself as the guests' router", "odhcpd": "may answer or advertise in the router's place"}
	for _, p := range m.daemons {
		what, known := does[p.name]
		if !known {
			what = "answers NDP or ARP in the router's place, and for addresses that no guest is bound to"
		}
		list = append(list, problem("systemctl disable --now "+p.name, "%s runs (pid %d): it %s", p.name, p.pid, what))
	}
	return list
}
