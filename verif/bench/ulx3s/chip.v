// SPDX-License-Identifier: Apache-2.0
// SDR SDRAM, 4 banks of 8192 rows of 512 words of 16 bits, at 100 MHz. A rule that is broken ends
// the simulation with a message. Times are those of the slowest chip of ULX3S boards.
module sdram_chip (
    input clk, cke, cs_n, ras_n, cas_n, we_n,
    input [1:0] ba, dm,
    input [12:0] a,
    inout [15:0] dq
);
  localparam START = 10000, RCD = 2, RP = 2, RAS = 5, RC = 7, RFC = 7, WR = 2, MRD = 2;
  localparam REFRESH = 64_000_000 / 8192 / 10;

  reg [15:0] memory [0:(1 << 24) - 1];
  reg [31:0] now = 0, refreshed = 0, refreshes = 0, busy = 0;
  // Bank by bank: the open row, and when it was opened and closed, or will have been.
  reg [3:0] open = 0;
  reg [12:0] row [0:3];
  reg [31:0] opened [0:3], closed [0:3], written [0:3];
  reg ready = 0;
  reg [2:0] latency;
  reg [3:0] length;
  // Words that are to be driven so many clocks from now.
  reg [7:0] reading = 0;
  reg [23:0] address [0:7];
  reg [3:0] writing = 0;
  reg [23:0] target;
  reg [15:0] data;
  reg drive = 0;
  integer i;
  // What is read takes 5.4 to 6 ns to the chip's pins and some more to those of the FPGA: longer than
  // half a period.
  reg [15:0] late;
  reg driving = 0;
  always @(negedge clk) {driving, late} <= {drive, data};
  assign dq = driving ? late : 16'bz;

  task rule(input kept, input [8*40-1:0] name);
    if (!kept) begin
      $display("SDRAM at %0d: %0s", now, name);
      $fatal;
    end
  endtask

  task close(input [1:0] bank, input [31:0] when_);
    begin
      rule(!open[bank] || when_ - opened[bank] >= RAS, "closed before tRAS");
      rule(!open[bank] || when_ - written[bank] >= WR, "closed before tWR");
      if (open[bank]) closed[bank] <= when_;
      open[bank] <= 0;
    end
  endtask

  function [23:0] beat(input [23:0] first, input integer number);
    beat = {first[23:3], first[2:0] & ~(length[2:0] - 3'd1) |
            (first[2:0] + number[2:0]) & (length[2:0] - 3'd1)};
  endfunction

  wire [23:0] place = {ba, row[ba], a[8:0]};

  // +memory=FILE: words at places {bank, row, column}, as $readmemh takes them.
  reg [8*256-1:0] file;
  initial begin
    for (i = 0; i < 4; i = i + 1) begin
      opened[i] = 0; closed[i] = 0; written[i] = 0;
    end
    if ($value$plusargs("memory=%s", file)) $readmemh(file, memory);
  end

  always @(posedge clk) begin
    now <= now + 1;
    drive <= reading[0];
    data <= memory[address[0]];
    reading <= reading >> 1;
    for (i = 0; i < 7; i = i + 1) address[i] <= address[i + 1];
    if (writing != 0) begin
      writing <= writing - 1;
      target <= beat(target, 1);
      if (!dm[0]) memory[beat(target, 1)][7:0] <= dq[7:0];
      if (!dm[1]) memory[beat(target, 1)][15:8] <= dq[15:8];
      written[target[23:22]] <= now;
    end
    rule(!ready || now - refreshed < 9 * REFRESH, "not refreshed");
    if (cke && !cs_n && {ras_n, cas_n, we_n} != 3'b111) begin
      rule(now >= START, "command before the start is over");
      rule(now >= busy, "command too early");
      case ({ras_n, cas_n, we_n})
        3'b011: begin  // activate
          rule(ready, "activate before the mode is set");
          rule(!open[ba], "activate of an open bank");
          rule(now - closed[ba] >= RP, "activate before tRP");
          rule(now - opened[ba] >= RC || opened[ba] == 0, "activate before tRC");
          open[ba] <= 1;
          row[ba] <= a;
          opened[ba] <= now;
        end
        3'b101: begin  // read
          rule(open[ba] && now - opened[ba] >= RCD, "read of a closed bank or before tRCD");
          for (i = 0; i < length; i = i + 1) begin
            reading[latency - 2 + i] <= 1;
            address[latency - 2 + i] <= beat(place, i);
          end
          writing <= 0;
          if (a[10]) close(ba, now + {28'd0, length});
        end
        3'b100: begin  // write
          rule(open[ba] && now - opened[ba] >= RCD, "write to a closed bank or before tRCD");
          rule(reading == 0 && !drive, "write while data is read");
          reading <= 0;
          target <= place;
          writing <= length - 1;
          if (!dm[0]) memory[place][7:0] <= dq[7:0];
          if (!dm[1]) memory[place][15:8] <= dq[15:8];
          written[ba] <= now;
          if (a[10]) begin
            open[ba] <= 0;
            closed[ba] <= now + {28'd0, length} - 1 + WR;
            rule(now + {28'd0, length} - 1 + WR - opened[ba] >= RAS, "closed before tRAS");
          end
        end
        3'b010:  // precharge
          for (i = 0; i < 4; i = i + 1) if (a[10] || i == ba) close(i[1:0], now);
        3'b001: begin  // refresh
          for (i = 0; i < 4; i = i + 1)
            rule(!open[i] && now - closed[i] >= RP, "refresh with an open bank or before tRP");
          refreshed <= now;
          refreshes <= refreshes + 1;
          busy <= now + RFC;
        end
        3'b000: begin  // mode
          rule(open == 0, "mode set with an open bank");
          ready <= refreshes >= 2;
          latency <= a[6:4];
          length <= 4'd1 << a[2:0];
          busy <= now + MRD;
        end
        default: rule(0, "unknown command");
      endcase
    end
  end
endmodule
