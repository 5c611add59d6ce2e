#!/bin/sh
# Hookscript of Proxmox VE for guests behind udrouter, an example: copy it to a storage for snippets and name it in the VM,
#
#   qm set 100 --hookscript local:snippets/udrouter.sh
#
# Proxmox calls it with the VM's number and a phase. MACs come from the VM's net0, net1 and so on, addresses from its ipconfig0 and so
# on, which cloud-init uses as well. Interfaces on other bridges than the router's are passed over; that is UDROUTER_BRIDGE, or else the one of the router
# that runs, or of its configuration. UDROUTER_BRIDGE, UDROUTER (the program) and UDROUTER_VIF_FLAGS may be set in /etc/default/udrouter. A VM whose interface the router refuses goes on without network: Proxmox ignores errors after the start.

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
defaults=${UDROUTER_DEFAULTS:-/etc/default/udrouter}
# shellcheck disable=SC1090
[ ! -r "$defaults" ] || . "$defaults"
udrouter=${UDROUTER:-udrouter}
id=${1:-}

# interfaces: a line "NUMBER PORT MAC ADDRESSES" for each interface on the router's bridge, and one "name NAME".
interfaces() {
	# shellcheck disable=SC2086 # the flags are words
	ours=${UDROUTER_BRIDGE:-$($udrouter vif bridge ${UDROUTER_VIF_FLAGS:-})}
	[ -n "$ours" ] || return 1
	awk -v id="$id" -v ours="$ours" '
	function addresses(list,    parts, i, n, out) {
		n = split(list, parts, ",")
		for (i = 1; i <= n; i++)
			if (parts[i] ~ /^ip6?=[0-9a-fA-F:.]+\/[0-9]+$/) {
				sub(/^ip6?=/, "", parts[i])
				sub(/\/.*/, "", parts[i])
				out = out " " parts[i]
			}
		return out
	}
	# Each key comes once: a second one would be a line of a text that somebody else may write.
	/^[a-z0-9]+: / && seen[$1]++ { print "udrouter: " $1 " comes twice in the configuration of VM " id >"/dev/stderr"; failed = 1; exit 1 }
	/^name: /              { name = $2 }
	/^net[0-9]+: .*bridge=/ {
		n = $1; gsub(/[^0-9]/, "", n)
		mac = $2; sub(/^[^=]*=/, "", mac); sub(/,.*/, "", mac)
		bridge = $2; sub(/^(.*,)?bridge=/, "", bridge); sub(/,.*/, "", bridge)
		if (bridge != ours) {
			print "udrouter: passed over net" n " of VM " id ": it is on bridge " bridge ", not on " ours ", the router\047s" >"/dev/stderr"
			next
		}
		macs[n] = mac
		ports[n] = ($2 ~ /,firewall=1/ ? "fwpr" id "p" n : "tap" id "i" n)
	}
	/^ipconfig[0-9]+: /    { n = $1; gsub(/[^0-9]/, "", n); ip[n] = addresses($2) }
	END { if (failed) exit 1; if (name != "") print "name", name; for (n in macs) print n, ports[n], macs[n], ip[n] }
	'
}

# shellcheck disable=SC2086 # the flags are words
case ${2:-} in
post-start)
	list=$(qm config "$id" | interfaces) || exit 1
	[ -n "$list" ] || exit 0
	printf '%s\n' "$list" | {
		status=0 name=vm-$id
		while read -r number port mac ip; do
			if [ "$number" = name ]; then
				name=$port
				continue
			fi
			$udrouter vif add --vif "$port" --mac "$mac" --ip "$ip" --domain "$name" --guest "$id" --device "$number" ${UDROUTER_VIF_FLAGS:-} >&2 || status=1
		done
		exit $status
	}
	;;
post-stop)
	qm config "$id" | interfaces 2>/dev/null | while read -r number port _; do
		[ "$number" = name ] || $udrouter vif remove --vif "$port" ${UDROUTER_VIF_FLAGS:-} >&2 || :
	done
	;;
esac
