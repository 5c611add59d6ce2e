#!/bin/sh
# dom0's and the guests' filter.
PATH=/sbin:/usr/sbin
IPT="/sbin/iptables -w"
EXT=eth0
ADMINPORT=$(cat /etc/adminport)
iptables -F
$IPT -N web
iptables -P INPUT DROP; iptables -P FORWARD DROP
iptables -A INPUT -p tcp --dport 53 -j ACCEPT && iptables -A INPUT -p udp --dport 53 -j ACCEPT
iptables -A INPUT ! -i $EXT -j ACCEPT
iptables -A INPUT -s 198.51.100.0/24 -p tcp --dport ssh -j ACCEPT
iptables -A INPUT -p tcp ! --syn -m state --state NEW -j DROP
iptables -A FORWARD -s 192.0.2.10 -d 192.0.2.11 -j ACCEPT
iptables -A FORWARD -s 192.0.2.0/24 ! -d 192.0.2.0/24 -j ACCEPT
iptables -A FORWARD -d 192.0.2.11 -j web
$IPT -A web ! -s 203.0.113.0/24 -p tcp -m multiport --dports 80,443 -j ACCEPT
iptables -A web -p tcp --dport 8080 -m recent --name http --update --seconds 60 -j DROP
iptables -A web -s 203.0.113.9 -j RETURN
iptables -A web -p udp --dport 443 -j ACCEPT
iptables -I FORWARD 1 -s 192.0.2.66 -j DROP
iptables -D FORWARD -s 192.0.2.66 -j DROP
iptables -A INPUT -p tcp --dport $ADMINPORT -j ACCEPT
iptables -A INPUT -s $BADNET -j DROP
iptables -A $CHAIN -j DROP
ip6tables -P INPUT DROP
ip6tables -P FORWARD DROP
ip6tables -A FORWARD -s 2001:db8:3:2:1::10 -j ACCEPT
ip6tables -A FORWARD -m state --state ESTABLISHED -j ACCEPT
ip6tables -A OUTPUT -d 2001:db8:3:2:1::11 -p tcp --dport 22 -j DROP
if [ -x /usr/bin/local-rules ]; then
  iptables -A FORWARD -p tcp --dport 6667 -j DROP
  iptables -A FORWARD -j ACCEPT
  iptables -P FORWARD ACCEPT
fi
[ -e /etc/open ] && iptables -A INPUT -j ACCEPT
$UNKNOWN -A INPUT -j ACCEPT
exit 0
