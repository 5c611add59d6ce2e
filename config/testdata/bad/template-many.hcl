uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}

bridge "xenbr0" {}

network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}

domu "t1" {
  match = "t1"
}
domu "t2" {
  match = "t2"
}
domu "t3" {
  match = "t3"
}
domu "t4" {
  match = "t4"
}
domu "t5" {
  match = "t5"
}
domu "t6" {
  match = "t6"
}
domu "t7" {
  match = "t7"
}
domu "t8" {
  match = "t8"
}
domu "t9" {
  match = "t9"
}
domu "t10" {
  match = "t10"
}
domu "t11" {
  match = "t11"
}
domu "t12" {
  match = "t12"
}
domu "t13" {
  match = "t13"
}
domu "t14" {
  match = "t14"
}
domu "t15" {
  match = "t15"
}
domu "t16" {
  match = "t16"
}
domu "t17" {
  match = "t17"
}
domu "t18" {
  match = "t18"
}
domu "t19" {
  match = "t19"
}
domu "t20" {
  match = "t20"
}
domu "t21" {
  match = "t21"
}
domu "t22" {
  match = "t22"
}
domu "t23" {
  match = "t23"
}
domu "t24" {
  match = "t24"
}
domu "t25" {
  match = "t25"
}
domu "t26" {
  match = "t26"
}
domu "t27" {
  match = "t27"
}
domu "t28" {
  match = "t28"
}
domu "t29" {
  match = "t29"
}
domu "t30" {
  match = "t30"
}
domu "t31" {
  match = "t31"
}
domu "t32" {
  match = "t32"
}
domu "t33" {
  match = "t33"
}
domu "t34" {
  match = "t34"
}
domu "t35" {
  match = "t35"
}
domu "t36" {
  match = "t36"
}
domu "t37" {
  match = "t37"
}
domu "t38" {
  match = "t38"
}
domu "t39" {
  match = "t39"
}
domu "t40" {
  match = "t40"
}
domu "t41" {
  match = "t41"
}
domu "t42" {
  match = "t42"
}
domu "t43" {
  match = "t43"
}
domu "t44" {
  match = "t44"
}
domu "t45" {
  match = "t45"
}
domu "t46" {
  match = "t46"
}
domu "t47" {
  match = "t47"
}
domu "t48" {
  match = "t48"
}
domu "t49" {
  match = "t49"
}
domu "t50" {
  match = "t50"
}
domu "t51" {
  match = "t51"
}
domu "t52" {
  match = "t52"
}
domu "t53" {
  match = "t53"
}
domu "t54" {
  match = "t54"
}
domu "t55" {
  match = "t55"
}
domu "t56" {
  match = "t56"
}
domu "t57" {
  match = "t57"
}
domu "t58" {
  match = "t58"
}
domu "t59" {
  match = "t59"
}
domu "t60" {
  match = "t60"
}
domu "t61" {
  match = "t61"
}
domu "t62" {
  match = "t62"
}
domu "t63" {
  match = "t63"
}
domu "t64" {
  match = "t64"
}
domu "t65" {
  match = "t65"
}
domu "t66" {
  match = "t66"
}
domu "t67" {
  match = "t67"
}
domu "t68" {
  match = "t68"
}
domu "t69" {
  match = "t69"
}
domu "t70" {
  match = "t70"
}
domu "t71" {
  match = "t71"
}
domu "t72" {
  match = "t72"
}
domu "t73" {
  match = "t73"
}
domu "t74" {
  match = "t74"
}
domu "t75" {
  match = "t75"
}
domu "t76" {
  match = "t76"
}
domu "t77" {
  match = "t77"
}
domu "t78" {
  match = "t78"
}
domu "t79" {
  match = "t79"
}
domu "t80" {
  match = "t80"
}
domu "t81" {
  match = "t81"
}
domu "t82" {
  match = "t82"
}
domu "t83" {
  match = "t83"
}
domu "t84" {
  match = "t84"
}
domu "t85" {
  match = "t85"
}
domu "t86" {
  match = "t86"
}
domu "t87" {
  match = "t87"
}
domu "t88" {
  match = "t88"
}
domu "t89" {
  match = "t89"
}
domu "t90" {
  match = "t90"
}
domu "t91" {
  match = "t91"
}
domu "t92" {
  match = "t92"
}
domu "t93" {
  match = "t93"
}
domu "t94" {
  match = "t94"
}
domu "t95" {
  match = "t95"
}
domu "t96" {
  match = "t96"
}
domu "t97" {
  match = "t97"
}
domu "t98" {
  match = "t98"
}
domu "t99" {
  match = "t99"
}
domu "t100" {
  match = "t100"
}
domu "t101" {
  match = "t101"
}
domu "t102" {
  match = "t102"
}
domu "t103" {
  match = "t103"
}
domu "t104" {
  match = "t104"
}
domu "t105" {
  match = "t105"
}
domu "t106" {
  match = "t106"
}
domu "t107" {
  match = "t107"
}
domu "t108" {
  match = "t108"
}
domu "t109" {
  match = "t109"
}
domu "t110" {
  match = "t110"
}
domu "t111" {
  match = "t111"
}
domu "t112" {
  match = "t112"
}
domu "t113" {
  match = "t113"
}
domu "t114" {
  match = "t114"
}
domu "t115" {
  match = "t115"
}
domu "t116" {
  match = "t116"
}
domu "t117" {
  match = "t117"
}
domu "t118" {
  match = "t118"
}
domu "t119" {
  match = "t119"
}
domu "t120" {
  match = "t120"
}
domu "t121" {
  match = "t121"
}
domu "t122" {
  match = "t122"
}
domu "t123" {
  match = "t123"
}
domu "t124" {
  match = "t124"
}
domu "t125" {
  match = "t125"
}
domu "t126" {
  match = "t126"
}
domu "t127" {
  match = "t127"
}
domu "t128" {
  match = "t128"
}
domu "t129" {
  match = "t129"
}
domu "t130" {
  match = "t130"
}
