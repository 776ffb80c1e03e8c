# SPDX-License-Identifier: Apache-2.0
# Example design for the Kria KV260: processing system, accelerator on a high-performance port.
#   vivado -mode batch -source kv260.tcl
# leaves kv260/hiddenfold.bit and .hwh, as PYNQ's Overlay wants them.
set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]

set board kv260
set part xck26-sfvc784-2LV-c
set board_files "*:kv260_som:*"
set ps_ip xilinx.com:ip:zynq_ultra_ps_e
set ps_rule xilinx.com:bd_rule:zynq_ultra_ps_e
set ps_external {}
set ps_settings [list \
    CONFIG.PSU__USE__M_AXI_GP0 1 \
    CONFIG.PSU__USE__M_AXI_GP1 0 \
    CONFIG.PSU__USE__M_AXI_GP2 0 \
    CONFIG.PSU__USE__S_AXI_GP2 1 \
    CONFIG.PSU__SAXIGP2__DATA_WIDTH $bus_bits \
    CONFIG.PSU__USE__IRQ0 1 \
    CONFIG.PSU__FPGA_PL0_ENABLE 1 \
    CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $clock_mhz \
]
array set ps_pins {
    clock pl_clk0
    reset pl_resetn0
    irq pl_ps_irq0
    registers M_AXI_HPM0_FPD
    memory S_AXI_HP0_FPD
    clocked {maxihpm0_fpd_aclk saxihp0_fpd_aclk}
}
source [file join $here block_design.tcl]
