package policy

const handshake = `
		> S 0 | new syn-sent
		< SA 0 ack 1 | syn-received
		> A 1 ack 1 | established`

// A script has a segment or a wait a line:
//
//	> SA 5 ack 1 len 100 win 1000 ws 7 | state
//
// > comes from who opens, < from the other. Numbers count from each side's own beginning. Behind the bar stands the state after it, with "new" before it
// where the segment made a flow, or the reason of a drop; "-" is no flow.
var tcpScripts = []struct{ name, ref, script string }{
	{"open, talk, close", "RFC 9293 3.5, 3.6", `
		> S 0 | new syn-sent
		< SA 0 ack 1 | syn-received
		> A 1 ack 1 | established
		> PA 1 ack 1 len 100 | established
		< A 1 ack 101 len 1000 | established
		< FA 1001 ack 101 | fin-wait
		> A 101 ack 1002 | close-wait
		> A 101 ack 1002 len 50 | close-wait
		> FA 151 ack 1002 | last-ack
		< A 1002 ack 152 | time-wait
		> FA 151 ack 1002 | time-wait`},
	{"close at the same time", "RFC 9293 3.6, figure 13", handshake + `
		> FA 1 ack 1 | fin-wait
		< FA 1 ack 1 | last-ack
		> A 2 ack 2 | last-ack
		< A 2 ack 2 | time-wait`},
	{"close in three segments", "RFC 9293 3.6", handshake + `
		> FA 1 ack 1 | fin-wait
		< FA 1 ack 2 | last-ack
		> A 2 ack 2 | time-wait`},
	{"data with the handshake's end, and a FIN with it", "RFC 9293 3.10", `
		> S 0 | new syn-sent
		< SA 0 ack 1 | syn-received
		> FA 1 ack 1 len 10 | fin-wait
		< A 1 ack 12 | close-wait`},
	{"SYN again, another SYN before an answer", "RFC 9293 3.8.1", `
		> S 0 | new syn-sent
		> S 0 | syn-sent
		> S 5000 | syn-sent
		< SA 0 ack 1 | tcp-window syn-sent
		< SA 0 ack 5001 | syn-received
		> S 5000 | syn-received
		< SA 0 ack 5001 | syn-received
		> A 5001 ack 1 | established`},
	{"simultaneous open", "RFC 9293 3.5, figure 7; RFC 5382 4.2", `
		> S 0 | new syn-sent
		< S 0 | syn-received
		> SA 0 ack 1 | syn-received
		< SA 0 ack 1 | established
		> A 1 ack 1 len 10 | established
		< A 1 ack 11 len 10 | established`},
	{"simultaneous open, acknowledged without SYN", "RFC 5382 4.2", `
		> S 0 | new syn-sent
		< S 0 | syn-received
		> A 1 ack 1 | syn-received
		< A 1 ack 1 | established`},
	{"split handshake", "attack 71", `
		> S 0 | new syn-sent
		< A 0 ack 1 | syn-sent
		< S 0 | syn-received
		> SA 0 ack 1 | syn-received
		< A 1 ack 1 | established`},
	{"data in the SYN", "RFC 7413", `
		> S 0 len 400 | new syn-sent
		< SA 0 ack 401 | syn-received
		< A 1 ack 401 len 1400 | syn-received
		< A 1401 ack 401 len 1400 | syn-received
		> A 401 ack 2801 | established`},
	{"data in the SYN that is not taken", "RFC 7413", `
		> S 0 len 400 | new syn-sent
		< SA 0 ack 1 | syn-received
		> A 1 ack 1 len 400 | established`},
	{"SYN+ACK for nothing that was sent", "RFC 9293 3.10.7.3", `
		> S 0 | new syn-sent
		< SA 0 ack 0 | tcp-window syn-sent
		< SA 0 ack 2 | tcp-window syn-sent
		< SA 900000 ack 643160523 | tcp-window syn-sent
		> S 0 | syn-sent
		< SA 0 ack 1 | syn-received`},
	{"the peer knows an old connection", "RFC 9293 3.5.1, figure 10", `
		> S 0 | new syn-sent
		< A 145824453 ack 643160523 | syn-sent
		> R 643160524 | tcp-window syn-sent
		> R 643160523 | syn-sent
		> S 0 | syn-sent
		< SA 0 ack 1 | syn-received
		> A 1 ack 1 | established`},
	{"no data and no FIN before a SYN", "attack 71", `
		> S 0 | new syn-sent
		< A 0 ack 1 len 1 | tcp-state syn-sent
		< FA 0 ack 1 | tcp-state syn-sent
		> A 1 ack 1 | tcp-state syn-sent
		> SA 0 ack 1 | tcp-state syn-sent`},
	{"the SYN must be acknowledged", "RFC 9293 3.10.7.4", `
		> S 0 | new syn-sent
		< SA 0 ack 1 | syn-received
		> A 1 ack 0 | tcp-window syn-received
		> A 1 ack 2 | tcp-window syn-received
		> FA 1 ack 0 len 10 | tcp-window syn-received
		> A 1 ack 1 | established`},
	{"a forged SYN does not shut out the right answer", "attack 71", `
		> S 0 | new syn-sent
		< S 77777 | syn-received
		< SA 0 ack 1 | syn-received
		> A 1 ack 1 | established
		< A 1 ack 1 len 10 | established`},
	{"who opened has lost its memory", "RFC 5961 4; RFC 9293 3.5.1", handshake + `
		> A 1 ack 1 len 100 | established
		< A 1 ack 101 | established
		> S 2000 | established
		< A 1 ack 101 | established
		> R 101 | closed
		> S 2000 | new syn-sent`},
	{"both have lost their memory", "RFC 9293 3.5.1", handshake + `
		> A 1 ack 1 len 100 | established
		> S 900000 | established
		< SA 700000 ack 101 | tcp-window established
		< SA 700000 ack 900001 | syn-received
		> A 900001 ack 700001 | established
		< A 700001 ack 900001 len 10 | established
		> A 1 ack 1 | tcp-window established`},
	{"the other SYN is refused", "RFC 9293 3.10.7.1", handshake + `
		> S 900000 | established
		< RA 0 ack 900001 | closed`},
	{"the first SYN comes late, and is answered", "overtaken duplicates", handshake + `
		> A 1 ack 1 len 30000 | established
		< A 1 ack 30001 | established
		> S 0 | established
		< SA 0 ack 1 | established
		> A 30001 ack 1 len 30000 | established`},
	{"the other side opens nothing", "attack 71", handshake + `
		< S 5000 | tcp-state established
		< SA 5000 ack 1 | tcp-window established
		> SA 5000 ack 1 | tcp-window established`},
	{"resets out of the window", "RFC 5961 3.2; attack 71", handshake + `
		< A 1 ack 1 len 3000 | established
		> A 1 ack 3001 | established
		> A 1 ack 3001 len 1000 | established
		< R 0 | tcp-window established
		< R 42 | tcp-window established
		< R 3000 | tcp-window established
		< R 3002 | tcp-window established
		< R 20000 | tcp-window established
		< R 1000000 | tcp-window established
		> R 1002 | tcp-window established
		< RA 3001 ack 1001 | closed`},
	{"resets within what is on its way", "RFC 5961 3.2", handshake + `
		< A 1 ack 1 len 1000 | established
		< A 1001 ack 1 len 1000 | established
		< R 1001 | established
		> A 1 ack 1 | established
		< R 1 | closed`},
	{"reset behind what is on its way", "RFC 5961 3.2", handshake + `
		< A 1 ack 1 len 1000 | established
		< R 1001 | closed`},
	{"reset of a SYN", "RFC 9293 3.10.7.3", `
		> S 0 | new syn-sent
		< R 0 | tcp-window syn-sent
		< RA 0 ack 0 | tcp-window syn-sent
		< RA 0 ack 2 | tcp-window syn-sent
		< RA 0 ack 1 | closed
		< RA 0 ack 1 | closed
		< A 0 ack 1 | tcp-state closed
		< SA 0 ack 1 | tcp-state closed`},
	{"who opened gives up", "RFC 9293 3.10.5", `
		> S 0 | new syn-sent
		> R 0 | tcp-window syn-sent
		> R 1 | closed`},
	{"who opened gives up after an answer without SYN", "RFC 9293 3.10.5", `
		> S 0 | new syn-sent
		< A 0 ack 1 | syn-sent
		> R 1 | closed`},
	{"reset while the connection opens", "RFC 9293 3.10.7.4", `
		> S 0 | new syn-sent
		< SA 0 ack 1 | syn-received
		> R 2 | tcp-window syn-received
		> R 1 | closed`},
	{"after a reset", "attack 71; RFC 5961 3.2", handshake + `
		< A 1 ack 1 len 1000 | established
		< R 1001 | closed
		< A 1001 ack 1 len 10 | tcp-state closed
		< A 1001 ack 1 | tcp-state closed
		< FA 1001 ack 1 | tcp-state closed
		> A 1 ack 1 len 10 | tcp-state closed
		> FA 1 ack 1 | tcp-state closed
		> A 1 ack 1 | closed
		> A 9000000 ack 1 | tcp-state closed
		< R 1 | closed
		> R 1 | closed
		> S 70000 | new syn-sent`},
	{"a reset that answers an older segment, when all is over", "netfilter's inexact resets", handshake + `
		> A 1 ack 1 len 1000 | established
		< FA 1 ack 1001 | fin-wait
		> A 1001 ack 2 | close-wait
		< R 1 | tcp-window close-wait
		> RA 1001 ack 2 | closed
		< R 1 | closed
		< R 9000000 | tcp-window closed`},
	{"a reset keeps the flow for four minutes", "RFC 7857 2.2", handshake + `
		< R 1 | closed
		wait 3m50s
		> A 1 ack 1 | closed
		< R 1 | closed
		> R 1 | closed
		wait 20s
		> A 1 ack 1 | no-flow -`},
	{"SYN in TIME-WAIT", "RFC 6191; RFC 9293 3.6.1", handshake + `
		> FA 1 ack 1 | fin-wait
		< FA 1 ack 2 | last-ack
		> A 2 ack 2 | time-wait
		> S 90000 | new syn-sent
		< SA 90000 ack 90001 | syn-received`},
	{"SYN from the other side in TIME-WAIT", "RFC 6191", handshake + `
		> FA 1 ack 1 | fin-wait
		< FA 1 ack 2 | last-ack
		> A 2 ack 2 | time-wait
		< S 90000 | new syn-sent
		> SA 90000 ack 90001 | syn-received`},
	{"TIME-WAIT ends", "RFC 5382 5", handshake + `
		> FA 1 ack 1 | fin-wait
		< FA 1 ack 2 | last-ack
		> A 2 ack 2 | time-wait
		wait 4m
		< FA 1 ack 2 | no-flow -`},
	{"half-closed for an hour", "RFC 6146 3.5.2.2; attack 71", handshake + `
		> FA 1 ack 1 | fin-wait
		< A 1 ack 2 | close-wait
		wait 1h
		< A 1 ack 2 len 1000 | close-wait
		> A 2 ack 1001 | close-wait
		wait 2h3m
		< A 1001 ack 2 len 1000 | close-wait`},
	{"a FIN that was not the sender's", "RFC 5961 5", handshake + `
		< FA 500 ack 1 | fin-wait
		< A 1 ack 1 len 1000 | established
		> A 1 ack 1001 | established`},
	{"idle for two hours", "RFC 5382 5", handshake + `
		wait 2h3m
		> A 1 ack 1 len 1 | established
		wait 2h4m
		> A 2 ack 1 len 1 | no-flow -`},
	{"half-open for four minutes", "RFC 5382 5", `
		> S 0 | new syn-sent
		wait 3m59s
		< SA 0 ack 1 | syn-received
		wait 4m
		> A 1 ack 1 | no-flow -`},
	// What netfilter's own tests of its tracking play, in our numbers.
	{"an old connection's SYN+ACK, then the right one, far away", "netfilter's conntrack_synack_old", `
		> S 0 win 65535 ws 8 | new syn-sent
		< SA 145824453 ack 643160523 win 240 ws 0 | tcp-window syn-sent
		< RA 145824454 ack 643160523 | tcp-window syn-sent
		> S 0 win 65535 ws 8 | syn-sent
		< SA 145758918 ack 1 win 250 ws 0 | syn-received
		> PA 1 ack 145758919 len 1 win 256 | established
		< A 145758919 ack 2 win 250 | established`},
	{"another SYN, the answer to the first connection, its reset", "netfilter's conntrack_synack_reuse", handshake + `
		> PA 1 ack 1 len 100 | established
		< A 1 ack 101 | established
		> S 2000 ws 7 | established
		< A 1 ack 101 | established
		> RA 101 ack 1 | closed
		> S 2000 ws 0 | new syn-sent
		< SA 900000 ack 2001 | syn-received
		> A 2001 ack 900001 | established`},
	{"a reset for what is closing, not exact", "netfilter's conntrack_inexact_rst", handshake + `
		< A 1 ack 1 len 3000 | established
		> A 1 ack 3001 | established
		> PA 1 ack 3001 len 1000 | established
		< FA 3001 ack 1001 | fin-wait
		> A 1001 ack 3002 | close-wait
		> RA 1001 ack 3002 | closed
		< R 2001 | closed`},
	{"SYN again and again, nobody answers", "attack 72; netfilter's conntrack_tcp_unreplied", `
		> S 0 | new syn-sent
		wait 3m
		> S 0 | syn-sent
		> S 7000 | syn-sent
		wait 50s
		> S 7000 | syn-sent
		wait 10s
		< SA 0 ack 7001 | no-flow -
		> S 7000 | new syn-sent`},
	{"what only passes keeps nothing alive", "RFC 5382 5", handshake + `
		wait 2h3m
		> S 0 | established
		> S 90000 | established
		< SA 0 ack 1 | established
		wait 2m
		> A 1 ack 1 | no-flow -`},
	{"no flow without a SYN", "attack 71; nmap -sA -sF -sN -sX -sW", `
		> A 1 ack 1 | no-flow -
		> SA 0 ack 1 | no-flow -
		> R 1 | no-flow -
		> RA 1 ack 1 | no-flow -
		> FA 1 ack 1 | no-flow -
		> F 1 | tcp-flags -
		> - 1 | tcp-flags -
		> P 1 | tcp-flags -
		> FPU 1 | tcp-flags -
		> SF 0 | tcp-flags -
		> SR 0 | tcp-flags -
		> SFA 0 ack 1 | tcp-flags -
		> FSRPAU 0 ack 1 | tcp-flags -
		> FRA 0 ack 1 | tcp-flags -
		< SU 0 | new syn-sent`},
	{"impossible flags within a connection", "attack 71", handshake + `
		> - 1 | tcp-flags established
		> F 1 | tcp-flags established
		> P 1 len 5 | tcp-flags established
		> SF 1 | tcp-flags established
		< SRA 1 ack 1 | tcp-flags established
		< FRA 1 ack 1 | tcp-flags established
		> FPU 1 | tcp-flags established
		> PAU 1 ack 1 len 5 | established`},
	{"beyond the window", "RFC 9293 3.10.7.4; RFC 5961 5.2", `
		> S 0 win 5000 | new syn-sent
		< SA 0 ack 1 win 3000 | syn-received
		> A 1 ack 1 win 5000 | established
		> A 3001 ack 1 len 1 win 5000 | established
		> A 3003 ack 1 len 1 win 5000 | tcp-window established
		< A 5001 ack 1 len 1 win 3000 | established
		< A 5003 ack 1 len 1 win 3000 | tcp-window established
		> A 1 ack 5003 win 5000 | tcp-window established
		> A 1 ack 5002 win 5000 | established
		> A 1 ack 1 win 5000 | established
		< A 5002 ack 1 win 9000 | established
		> A 9001 ack 5002 len 1 win 5000 | established`},
	{"far in the past", "RFC 5961 5.2", handshake + `
		> A 1 ack 1 len 60000 | established
		< A 1 ack 60001 | established
		> A 60001 ack 1 len 60000 | established
		< A 1 ack 120001 | established
		> A 1 ack 1 len 1000 | tcp-window established
		< A 1 ack 20001 | tcp-window established
		> A 60001 ack 1 len 1000 | established
		< A 1 ack 60001 | established`},
	{"repeated although acknowledged", "netfilter's lost acknowledgements", handshake + `
		> A 1 ack 1 len 60000 | established
		< A 1 ack 60001 | established
		> A 60001 ack 1 len 5000 | established
		< A 1 ack 65001 | established
		> A 1 ack 1 len 1460 | established
		< A 1 ack 65001 | established`},
	{"windows are scaled", "RFC 7323 2.3", `
		> S 0 win 1000 ws 7 | new syn-sent
		< SA 0 ack 1 win 1000 ws 2 | syn-received
		> A 1 ack 1 win 1000 | established
		> A 1003 ack 1 len 1 win 1000 | tcp-window established
		< A 128001 ack 1 len 1 win 1000 | established
		< A 128003 ack 1 len 1 win 1000 | tcp-window established
		> A 4001 ack 1 len 1 win 1000 | established
		> A 4003 ack 1 len 1 win 1000 | tcp-window established`},
	{"windows are not scaled when one side cannot", "RFC 7323 2.2", `
		> S 0 win 1000 ws 7 | new syn-sent
		< SA 0 ack 1 win 1000 | syn-received
		> A 1 ack 1 win 1000 | established
		< A 1003 ack 1 len 1 win 1000 | tcp-window established
		< A 1001 ack 1 len 1 win 1000 | established`},
	{"a scale above 14 is 14", "RFC 7323 2.3", `
		> S 0 win 1000 ws 200 | new syn-sent
		< SA 0 ack 1 win 1000 ws 0 | syn-received
		> A 1 ack 1 win 1 | established
		< A 16385 ack 1 len 1 win 1000 | established
		< A 16387 ack 1 len 1 win 1000 | tcp-window established`},
	{"window of zero, probed and opened", "RFC 9293 3.8.6.1", `
		> S 0 | new syn-sent
		< SA 0 ack 1 win 100 | syn-received
		> A 1 ack 1 | established
		> A 1 ack 1 len 100 | established
		< A 1 ack 101 win 0 | established
		> A 101 ack 1 len 1 | established
		> A 102 ack 1 | established
		> A 103 ack 1 len 1 | tcp-window established
		< A 1 ack 101 win 0 | established
		> A 100 ack 1 | established
		< A 1 ack 102 win 1000 | established
		> A 102 ack 1 len 900 | established`},
	{"keep-alives", "RFC 9293 3.8.4", handshake + `
		> A 0 ack 1 | established
		< A 1 ack 1 | established
		> A 0 ack 1 len 1 | established`},
	{"a super-packet counts with all its bytes", "attack 13", `
		> S 0 win 60000 ws 7 | new syn-sent
		< SA 0 ack 1 win 60000 ws 7 | syn-received
		> A 1 ack 1 | established
		> A 1 ack 1 len 60000 | established
		< A 1 ack 60001 | established
		< A 1 ack 60002 | tcp-window established`},
}
