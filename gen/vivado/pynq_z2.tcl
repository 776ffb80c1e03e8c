# SPDX-License-Identifier: Apache-2.0
# Example design for the PYNQ-Z2: processing system, accelerator on a high-performance port.
#   vivado -mode batch -source pynq_z2.tcl
# leaves pynq_z2/hiddenfold.bit and .hwh, as PYNQ's Overlay wants them.
set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]

set board pynq_z2
set part xc7z020clg400-1
set board_files "*:pynq-z2:*"
set ps_ip xilinx.com:ip:processing_system7
set ps_rule xilinx.com:bd_rule:processing_system7
set ps_external {make_external "FIXED_IO, DDR"}
set ps_settings [list \
    CONFIG.PCW_USE_M_AXI_GP0 1 \
    CONFIG.PCW_USE_S_AXI_HP0 1 \
    CONFIG.PCW_S_AXI_HP0_DATA_WIDTH 64 \
    CONFIG.PCW_USE_FABRIC_INTERRUPT 1 \
    CONFIG.PCW_IRQ_F2P_INTR 1 \
    CONFIG.PCW_EN_CLK0_PORT 1 \
    CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ $clock_mhz \
]
array set ps_pins {
    clock FCLK_CLK0
    reset FCLK_RESET0_N
    irq IRQ_F2P
    registers M_AXI_GP0
    memory S_AXI_HP0
    clocked {M_AXI_GP0_ACLK S_AXI_HP0_ACLK}
}
source [file join $here block_design.tcl]
