// SPDX-License-Identifier: Apache-2.0
// The cells of ECP5 at the pins and clocks of the board's design, for simulation without delays.

// Each change of CLKI is a step of time, 5 ns. Outputs above 60 MHz have a period of two steps, the
// others of four; all rise together but those of a phase of 180 degrees.
module EHXPLLL (
    input CLKI, RST, STDBY,
    output CLKOP, CLKOS, CLKOS2, CLKOS3,
    output reg LOCK = 0
);
  parameter CLKI_DIV = 1, CLKFB_DIV = 1, FEEDBK_PATH = "CLKOP";
  parameter CLKOP_DIV = 8, CLKOS_DIV = 8, CLKOS2_DIV = 8, CLKOS3_DIV = 8;
  parameter CLKOP_CPHASE = 0, CLKOS_CPHASE = 0, CLKOS2_CPHASE = 0, CLKOS3_CPHASE = 0;
  parameter CLKOP_FPHASE = 0, CLKOS_FPHASE = 0, CLKOS2_FPHASE = 0, CLKOS3_FPHASE = 0;
  parameter CLKOP_ENABLE = "DISABLED", CLKOS_ENABLE = "DISABLED";
  parameter CLKOS2_ENABLE = "DISABLED", CLKOS3_ENABLE = "DISABLED";
  // Feedback is the last output, and undivided.
  localparam VCO = 25 * CLKFB_DIV / CLKI_DIV;

  reg [1:0] now = 0;
  reg [3:0] clocks = 0;
  reg [7:0] started = 0;
  assign {CLKOS3, CLKOS2, CLKOS, CLKOP} = clocks;

  function level(input integer div, input integer phase);
    level = (VCO / div <= 60) ? ~now[1] : now[0] ^ (phase == div - 1);
  endfunction

  always @(posedge CLKI or negedge CLKI) begin
    now <= now + 2'd1;
    clocks <= {1'b0, level(CLKOS2_DIV, CLKOS2_CPHASE), level(CLKOS_DIV, CLKOS_CPHASE),
               level(CLKOP_DIV, CLKOP_CPHASE)};
    if (RST) started <= 0;
    else if (!(&started)) started <= started + 8'd1;
    LOCK <= &started;
  end
endmodule

module ODDRX1F (input D0, D1, SCLK, RST, output Q);
  assign Q = SCLK ? D0 : D1;
endmodule

module OFS1P3BX (input D, SP, SCLK, PD, output reg Q);
  always @(posedge SCLK) if (SP) Q <= D;
endmodule

module IFS1P3BX (input D, SP, SCLK, PD, output reg Q);
  always @(posedge SCLK) if (SP) Q <= D;
endmodule

module FD1S3BX (input D, CK, PD, output reg Q);
  always @(posedge CK or posedge PD) Q <= PD ? 1'b1 : D;
endmodule

module TRELLIS_IO #(parameter DIR = "INPUT") (inout B, input I, T, output O);
  assign B = T ? 1'bz : I;
  assign O = B;
endmodule
