# SPDX-License-Identifier: Apache-2.0
# What the example designs share. Sourced by the script of a board, which sets `here`, `board`,
# `part`, `board_files` and the variables `ps_*` about its processing system.
set out [file join $here $board]

# The newest version of an IP that this Vivado has.
proc newest {vln} {
    set found [lsort -dictionary [get_ipdefs -all "$vln:*"]]
    if {[llength $found] == 0} {
        error "no IP $vln in this Vivado: are its device families installed?"
    }
    return [lindex $found end]
}

create_project hiddenfold [file join $out project] -part $part -force
set board_part [lindex [lsort [get_board_parts -quiet $board_files]] end]
set preset {}
if {$board_part ne ""} {
    set_property board_part $board_part [current_project]
    set preset {apply_board_preset "1"}
} else {
    # DDR and pins of the processing system are set up by the boot loader of the board's image.
    puts "no board files of $board: the design is for images that boot by themselves"
}
set_property ip_repo_paths [list $here] [current_project]
update_ip_catalog

create_bd_design system
set ps [create_bd_cell -type ip -vlnv [newest $ps_ip] ps]
apply_bd_automation -rule $ps_rule -config [concat $ps_external $preset] $ps
set_property -dict $ps_settings $ps
create_bd_cell -type ip -vlnv [newest $vlnv] core
create_bd_cell -type ip -vlnv [newest xilinx.com:ip:proc_sys_reset] reset
foreach bus {registers memory} {
    set cell [create_bd_cell -type ip -vlnv [newest xilinx.com:ip:smartconnect] $bus]
    set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI 1] $cell
}

# One clock for everything.
set clocked [list core/aclk reset/slowest_sync_clk registers/aclk memory/aclk]
foreach pin $ps_pins(clocked) {
    lappend clocked ps/$pin
}
foreach pin $clocked {
    connect_bd_net [get_bd_pins ps/$ps_pins(clock)] [get_bd_pins $pin]
}
connect_bd_net [get_bd_pins ps/$ps_pins(reset)] [get_bd_pins reset/ext_reset_in]
foreach cell {core registers memory} {
    connect_bd_net [get_bd_pins reset/peripheral_aresetn] [get_bd_pins $cell/aresetn]
}
connect_bd_net [get_bd_pins core/irq] [get_bd_pins ps/$ps_pins(irq)]

foreach {from to} [list \
    ps/$ps_pins(registers) registers/S00_AXI \
    registers/M00_AXI core/s_axi \
    core/m_axi memory/S00_AXI \
    memory/M00_AXI ps/$ps_pins(memory) \
] {
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}

assign_bd_address
validate_bd_design
save_bd_design

add_files -norecurse [list [make_wrapper -files [get_files system.bd] -top]]
set_property top system_wrapper [current_fileset]
launch_runs impl_1 -to_step write_bitstream -jobs 4
wait_on_runs impl_1
if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} {
    error "implementation failed: see [file join $out project]"
}
open_run impl_1
report_timing_summary -file [file join $out timing.txt]
report_utilization -file [file join $out utilization.txt]
set run [get_property DIRECTORY [get_runs impl_1]]
file copy -force [file join $run system_wrapper.bit] [file join $out hiddenfold.bit]
set handoff [glob [file join $out project hiddenfold.gen sources_1 bd system hw_handoff *.hwh]]
file copy -force [lindex $handoff 0] [file join $out hiddenfold.hwh]
foreach {kind option} {setup -setup hold -hold} {
    set slack [get_property SLACK [get_timing_paths $option -max_paths 1]]
    if {$slack ne "" && $slack < 0} {
        error "timing is not met: $kind slack $slack ns, see [file join $out timing.txt]"
    }
}
puts "wrote [file join $out hiddenfold.bit]"
