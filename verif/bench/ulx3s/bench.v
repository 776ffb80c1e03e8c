// SPDX-License-Identifier: Apache-2.0
// The board's design with its SDRAM.
module bench (input clk25, rx, output tx);
  wire [12:0] a;
  wire [1:0] ba, dm;
  wire [15:0] dq;
  wire clock, cke, cs_n, ras_n, cas_n, we_n;
  top top (
      .clk25(clk25), .user_btn1(1'b0), .serial_rx(rx), .serial_tx(tx),
      .sdram_clock(clock), .sdram_cke(cke), .sdram_cs_n(cs_n), .sdram_ras_n(ras_n),
      .sdram_cas_n(cas_n), .sdram_we_n(we_n), .sdram_ba(ba), .sdram_a(a), .sdram_dm(dm),
      .sdram_dq(dq), .wifi_gpio0());
  sdram_chip chip (
      .clk(clock), .cke(cke), .cs_n(cs_n), .ras_n(ras_n), .cas_n(cas_n), .we_n(we_n),
      .ba(ba), .dm(dm), .a(a), .dq(dq));
endmodule
