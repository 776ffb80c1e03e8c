// SPDX-License-Identifier: Apache-2.0
// Makes the wires of a legal ECP5 placement shorter by simulated annealing; see anneal.py.
//
// Units are tiles. What moves: flip-flops that no look-up table feeds directly, look-up tables with
// the flip-flop they feed, slices, runs of whole tiles (carry chains, distributed memories), block
// RAMs. A move never breaks what nextpnr demands of a tile: one clock and one reset for its
// flip-flops, one enable for those of a slice.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <tuple>
#include <utility>
#include <vector>

namespace {

constexpr int kColumns = 128, kRows = 97, kTiles = kColumns * kRows;
constexpr int kLogicLeft = 2, kLogicRight = 124, kLogicTop = 2, kLogicBottom = 93;
constexpr int kPlaces = 8;  // of a tile: each a look-up table and a flip-flop
// Nets of more ends are left out when the middle of a cell's nets is sought.
constexpr int kWideNet = 64;
// A chain is tried once in so many times that it is drawn: it has many cells, and costs as much.
constexpr int kChainEvery = 12;
constexpr int kBlockRamEvery = 100;
// Of the longest path: what a wire is part of must be as long to be drawn together, and the power of
// that with which it is.
constexpr double kCritical = 0.5, kSharpness = 4;

enum Kind : char { kLut = 'C', kFlipFlop = 'F', kRamWrite = 'R', kBlockRam = 'E', kFixed = 'X' };
enum Flag { kPlain = 0, kCarry = 1, kMemory = 2 };  // of a look-up table; 1 of a fed flip-flop

struct Cell {
  char kind;
  int x, y, z;            // z: place in the tile, number of the block RAM
  int tile_key, slice_key;  // flip-flops with equal ones go together
  int flag, previous;     // previous: the half of the carry chain before this one
  std::vector<int> nets;
  bool carry() const { return kind == kLut && flag == kCarry; }
  bool fed() const { return kind == kFlipFlop && flag; }
};

struct Box {
  int left, right, top, bottom;
  int half() const { return right - left + bottom - top; }
};

struct Tile {
  std::array<int, kPlaces> lut, ff;
  int ram_write = -1;
  bool logic = false;      // false: other tiles, which have no places
  bool memory = false;     // moves as a whole only
  bool continued = false;  // a carry chain comes in from the tile to the left
  Tile() { lut.fill(-1), ff.fill(-1); }
};

struct Random {
  uint64_t state;
  uint32_t next() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<uint32_t>(state >> 32);
  }
  int below(int n) { return static_cast<int>((uint64_t(next()) * n) >> 32); }
  double unit() { return next() / 4294967296.0; }
};

std::vector<Cell> cells;
std::vector<std::vector<int>> ends;  // of each net: its cells
std::vector<Box> boxes;
std::vector<double> weights, costs;  // of each net
// What draws the cell that drives a net and one that takes it together, since a long path goes there.
struct Pull {
  int driver, sink;
  double weight;
};
std::vector<std::vector<Pull>> pulls;  // of each net
std::array<Tile, kTiles> tiles;
std::array<int, kTiles> pins;  // ends of nets in a tile
std::array<int, kTiles> pins_free;  // of a tile, that cost nothing
double pin_price, temperature;
Random rng;

int tile_at(int x, int y) { return y * kColumns + x; }

// Of the rectangle that holds the ends of a net, what its wires take more than half the perimeter
// (Cheng, RISA: efficient and accurate placement routability modeling, 1994).
double crossing(int n) {
  if (n <= 3) return 1;
  if (n < 10) return 1.02 + 0.06 * (n - 3);
  if (n <= 15) return 1.45 + 0.048 * (n - 10);
  if (n <= 25) return 1.69 + 0.038 * (n - 15);
  if (n <= 50) return 2.07 + 0.029 * (n - 25);
  return 2.79 + 0.02 * (n - 50);
}

Box box_of(int net, int without = -1) {
  Box box{kColumns, -1, kRows, -1};
  for (int cell : ends[net]) {
    if (cell == without) continue;
    const Cell &c = cells[cell];
    box = {std::min(box.left, c.x), std::max(box.right, c.x), std::min(box.top, c.y),
           std::max(box.bottom, c.y)};
  }
  return box;
}

double price(int tile) {
  const double over = pins[tile] - pins_free[tile];
  return over > 0 ? pin_price * over * over : 0;
}

bool legal(const Tile &tile) {
  int key = -1;
  for (int place = 0; place < kPlaces; place++) {
    const int ff = tile.ff[place];
    if (ff < 0) continue;
    if (key < 0) key = cells[ff].tile_key;
    if (cells[ff].tile_key != key) return false;
    const int other = tile.ff[place ^ 1];
    if (other >= 0 && cells[other].slice_key != cells[ff].slice_key) return false;
  }
  return true;
}

// Cells that a move has put elsewhere, and where they were.
struct Moved {
  int cell, x, y;
};
std::vector<Moved> moved;

void move_to(int cell, int tile) {
  if (cell < 0) return;
  Cell &c = cells[cell];
  moved.push_back({cell, c.x, c.y});
  c.x = tile % kColumns, c.y = tile / kColumns;
}

// The box of a net after a move; all its ends are looked at only when one has left an edge.
Box box_after(int net) {
  if (ends[net].size() <= 5) return box_of(net);
  const Box &old = boxes[net];
  Box box = old;
  for (const Moved &m : moved) {
    const Cell &c = cells[m.cell];
    if (std::find(c.nets.begin(), c.nets.end(), net) == c.nets.end()) continue;
    if ((m.x == old.left && c.x > m.x) || (m.x == old.right && c.x < m.x) ||
        (m.y == old.top && c.y > m.y) || (m.y == old.bottom && c.y < m.y))
      return box_of(net);
    box = {std::min(box.left, c.x), std::max(box.right, c.x), std::min(box.top, c.y),
           std::max(box.bottom, c.y)};
  }
  return box;
}

double cost_of(int net, const Box &box) {
  double cost = weights[net] * box.half();
  for (const Pull &pull : pulls[net]) {
    const Cell &c = cells[pull.driver], &d = cells[pull.sink];
    cost += pull.weight * (std::abs(c.x - d.x) + std::abs(c.y - d.y));
  }
  return cost;
}

// Keep a move whose cells have been moved, or take them back.
bool keep() {
  static std::vector<int> stamps(ends.size()), touched;
  static std::vector<Box> after;
  static std::vector<double> costs_after;
  static int stamp = 0;
  stamp++, touched.clear(), after.clear(), costs_after.clear();
  double change = 0;
  for (const Moved &m : moved)
    for (int net : cells[m.cell].nets)
      if (stamps[net] != stamp) stamps[net] = stamp, touched.push_back(net);
  for (int net : touched) {
    after.push_back(box_after(net));
    costs_after.push_back(cost_of(net, after.back()));
    change += costs_after.back() - costs[net];
  }
  auto carry_pins = [&](bool back) {
    for (const Moved &m : moved) {
      const Cell &c = cells[m.cell];
      const int count = static_cast<int>(c.nets.size());
      int from = tile_at(m.x, m.y), to = tile_at(c.x, c.y);
      if (back) std::swap(from, to);
      change -= price(from) + (from == to ? 0 : price(to));
      pins[from] -= count, pins[to] += count;
      change += price(from) + (from == to ? 0 : price(to));
    }
  };
  carry_pins(false);
  if (change <= 0 || rng.unit() < std::exp(-change / temperature)) {
    for (size_t i = 0; i < touched.size(); i++) {
      const int net = touched[i];
      boxes[net] = after[i], costs[net] = costs_after[i];
    }
    return true;
  }
  carry_pins(true);
  for (const Moved &m : moved) cells[m.cell].x = m.x, cells[m.cell].y = m.y;
  return false;
}

// Exchange what is chosen of two tiles' places; both must stay legal.
template <typename Exchange>
void exchange(int a, int b, Exchange swap_contents, const std::vector<int> &of_a,
              const std::vector<int> &of_b) {
  swap_contents();
  if (legal(tiles[a]) && legal(tiles[b])) {
    moved.clear();
    for (int cell : of_a) move_to(cell, b);
    for (int cell : of_b) move_to(cell, a);
    if (!moved.empty() && keep()) return;
  }
  swap_contents();
}

bool plain_slice(const Tile &tile, int place) {
  for (int cell : {tile.lut[place], tile.lut[place ^ 1]})
    if (cell >= 0 && cells[cell].carry()) return false;
  return true;
}

void exchange_flip_flops(int a, int at_a, int b, int at_b) {
  int &first = tiles[a].ff[at_a], &second = tiles[b].ff[at_b];
  for (int ff : {first, second})
    if (ff >= 0 && cells[ff].fed()) return;
  exchange(a, b, [&] { std::swap(first, second); }, {first}, {second});
}

void exchange_places(int a, int at_a, int b, int at_b, bool with_flip_flops) {
  Tile &s = tiles[a], &t = tiles[b];
  if (!plain_slice(s, at_a) || !plain_slice(t, at_b)) return;
  if (with_flip_flops) {
    exchange(a, b,
             [&] { std::swap(s.lut[at_a], t.lut[at_b]), std::swap(s.ff[at_a], t.ff[at_b]); },
             {s.lut[at_a], s.ff[at_a]}, {t.lut[at_b], t.ff[at_b]});
    return;
  }
  for (int ff : {s.ff[at_a], t.ff[at_b]})
    if (ff >= 0 && cells[ff].fed()) return;
  exchange(a, b, [&] { std::swap(s.lut[at_a], t.lut[at_b]); }, {s.lut[at_a]}, {t.lut[at_b]});
}

void exchange_slices(int a, int at_a, int b, int at_b) {
  Tile &s = tiles[a], &t = tiles[b];
  at_a &= ~1, at_b &= ~1;
  if (!plain_slice(s, at_a) || !plain_slice(t, at_b)) return;
  exchange(a, b,
           [&] {
             for (int k = 0; k < 2; k++)
               std::swap(s.lut[at_a + k], t.lut[at_b + k]), std::swap(s.ff[at_a + k], t.ff[at_b + k]);
           },
           {s.lut[at_a], s.lut[at_a + 1], s.ff[at_a], s.ff[at_a + 1]},
           {t.lut[at_b], t.lut[at_b + 1], t.ff[at_b], t.ff[at_b + 1]});
}

// Put the contents of whole tiles, from[i] to to[i], where `to` has the tiles of `from`.
void permute(const std::vector<int> &from, const std::vector<int> &to) {
  static std::vector<Tile> before;
  before.clear(), moved.clear();
  for (int tile : from) {
    if (!tiles[tile].logic) return;
    before.push_back(tiles[tile]);
  }
  for (size_t i = 0; i < from.size(); i++) {
    tiles[to[i]] = before[i];
    for (int place = 0; place < kPlaces; place++)
      move_to(before[i].lut[place], to[i]), move_to(before[i].ff[place], to[i]);
    move_to(before[i].ram_write, to[i]);
  }
  if (!moved.empty() && keep()) return;
  for (size_t i = 0; i < from.size(); i++) tiles[from[i]] = before[i];
}

bool chain_crosses(int x, int y) { return x <= kLogicRight && tiles[tile_at(x, y)].continued; }

int run_begin(int x, int y) {
  while (chain_crosses(x, y)) x--;
  return x;
}

int run_end(int x, int y) {
  do x++;
  while (chain_crosses(x, y));
  return x;
}

// Exchange the run of tiles that holds (x, y) with its neighbour to the right.
void exchange_neighbours(int x, int y) {
  const int begin = run_begin(x, y), middle = run_end(x, y);
  if (middle > kLogicRight) return;
  const int end = run_end(middle, y);
  std::vector<int> from, to;
  for (int i = begin; i < end; i++) {
    from.push_back(tile_at(i, y));
    to.push_back(tile_at(i < middle ? i + end - middle : i - (middle - begin), y));
  }
  permute(from, to);
}

// Exchange the run of tiles that holds (x, y) with as many tiles at (u, v); none cuts a chain.
void exchange_runs(int x, int y, int u, int v) {
  x = run_begin(x, y);
  int length = run_end(x, y) - x;
  u = run_begin(std::min(u, kLogicRight + 1 - length), v);
  const int end = run_end(u + length - 1, v);
  length = end - u;
  x = std::min(x, kLogicRight + 1 - length);
  if (x < kLogicLeft || u < kLogicLeft || chain_crosses(x, y) || chain_crosses(x + length, y))
    return;
  if (y == v && std::abs(x - u) < length) return;
  std::vector<int> from, to;
  for (int i = 0; i < length; i++) {
    const int a = tile_at(x + i, y), b = tile_at(u + i, v);
    from.push_back(a), to.push_back(b), from.push_back(b), to.push_back(a);
  }
  permute(from, to);
}

// A block RAM without nets is a place that is free.
void exchange_block_rams(int a, int b) {
  if (a == b) return;
  Cell &s = cells[a], &t = cells[b];
  const int place_a = tile_at(s.x, s.y), place_b = tile_at(t.x, t.y);
  moved.clear();
  move_to(a, place_b), move_to(b, place_a);
  if (keep()) std::swap(s.z, t.z);
}

// Where the cell's nets would have it.
std::pair<int, int> middle_of_nets(int cell) {
  static std::vector<int> xs, ys;
  xs.clear(), ys.clear();
  for (int net : cells[cell].nets) {
    const size_t n = ends[net].size();
    if (n > kWideNet) continue;
    const Box box = n > 4 ? boxes[net] : box_of(net, cell);
    if (box.right < 0) continue;
    xs.insert(xs.end(), {box.left, box.right}), ys.insert(ys.end(), {box.top, box.bottom});
  }
  if (xs.empty()) return {cells[cell].x, cells[cell].y};
  auto median = [](std::vector<int> &v) {
    std::nth_element(v.begin(), v.begin() + v.size() / 2, v.end());
    return v[v.size() / 2];
  };
  return {median(xs), median(ys)};
}

// A cell that this one is drawn to, or -1.
int drawn_to(int cell) {
  const std::vector<int> &nets = cells[cell].nets;
  if (nets.empty()) return -1;
  const std::vector<Pull> &all = pulls[nets[rng.below(static_cast<int>(nets.size()))]];
  if (all.empty()) return -1;
  const Pull &pull = all[rng.below(static_cast<int>(all.size()))];
  return pull.driver == cell ? pull.sink : pull.sink == cell ? pull.driver : -1;
}

// Try to move a block RAM, near its nets or anywhere.
void try_block_ram(const std::vector<int> &block_rams, double reach) {
  auto any = [&] { return block_rams[rng.below(static_cast<int>(block_rams.size()))]; };
  const int a = any();
  int b = any();
  if (rng.next() & 1) {
    const auto [x, y] = middle_of_nets(a);
    const int window = static_cast<int>(std::max(4.0, reach));
    const int u = x + rng.below(2 * window + 1) - window, v = y + rng.below(2 * window + 1) - window;
    auto away = [&](int i) { return std::abs(cells[i].x - u) + std::abs(cells[i].y - v); };
    b = *std::min_element(block_rams.begin(), block_rams.end(),
                          [&](int i, int j) { return away(i) < away(j); });
  }
  exchange_block_rams(a, b);
}

template <typename Fits>
int find_place(Fits fits) {
  const int first = rng.below(kPlaces);
  for (int k = 0; k < kPlaces; k++)
    if (fits((first + k) % kPlaces)) return (first + k) % kPlaces;
  return first;
}

// Try to move a cell out of a tile that is a memory and has room for others.
void leave_memory(int index, int a, int b) {
  const Tile &s = tiles[a], &t = tiles[b];
  if (a == b || t.memory) return;
  const auto &mine = cells[index].kind == kLut ? s.lut : s.ff;
  const int at_a = static_cast<int>(std::find(mine.begin(), mine.end(), index) - mine.begin());
  const int at_b = find_place([&](int k) { return t.lut[k] < 0 && t.ff[k] < 0; });
  if (t.lut[at_b] >= 0 || t.ff[at_b] >= 0) return;
  const int lut = s.lut[at_a];
  if (lut >= 0 && cells[lut].flag == kMemory)
    exchange_flip_flops(a, at_a, b, at_b);
  else
    exchange_places(a, at_a, b, at_b, true);
}

// Try to move one cell, with what must go with it, near its nets or within `reach`.
void try_cell(int index, double reach) {
  const Cell &cell = cells[index];
  auto [x, y] = std::pair<int, int>(cell.x, cell.y);
  const bool to_nets = rng.next() & 1;
  if (to_nets) {
    const int other = drawn_to(index);
    std::tie(x, y) = other < 0 ? middle_of_nets(index) : std::pair(cells[other].x, cells[other].y);
  }
  const int window = static_cast<int>(to_nets ? std::max(1.0, reach / 6) : std::max(2.0, reach));
  x = std::clamp(x + rng.below(2 * window + 1) - window, kLogicLeft, kLogicRight);
  y = std::clamp(y + rng.below(2 * window + 1) - window, kLogicTop, kLogicBottom);
  const int a = tile_at(cell.x, cell.y), b = tile_at(x, y);
  if (!tiles[b].logic) return;
  if (tiles[a].memory && cell.flag != kMemory && rng.below(2)) return leave_memory(index, a, b);
  if (cell.carry() || tiles[a].memory) {
    if (rng.below(kChainEvery)) return;
    if (rng.below(4) == 0)
      exchange_neighbours(cell.x, cell.y);
    else
      exchange_runs(cell.x, cell.y, x, y);
    return;
  }
  if (a == b || tiles[b].memory) return;
  const Tile &s = tiles[a], &t = tiles[b];
  if (cell.kind == kFlipFlop && !cell.fed() && rng.below(8)) {
    const int at_a = static_cast<int>(std::find(s.ff.begin(), s.ff.end(), index) - s.ff.begin());
    exchange_flip_flops(a, at_a, b, find_place([&](int k) {
      const int other = t.ff[k ^ 1];
      return t.ff[k] < 0 && (other < 0 || cells[other].slice_key == cell.slice_key);
    }));
    return;
  }
  const auto &mine = cell.kind == kLut ? s.lut : s.ff;
  const int at_a = static_cast<int>(std::find(mine.begin(), mine.end(), index) - mine.begin());
  switch (rng.below(4)) {
    case 0:
      return exchange_slices(a, at_a, b, rng.below(kPlaces));
    case 1:
      if (cell.kind == kLut) return exchange_places(a, at_a, b, rng.below(kPlaces), false);
      [[fallthrough]];
    default:
      exchange_places(a, at_a, b, find_place([&](int k) {
        return t.lut[k] < 0 && t.ff[k] < 0 && plain_slice(t, k);
      }), true);
  }
}

// Of a path's part: the net that drives it, the cell that it goes to (-1: without a wire), and
// either the net that this cell drives, or the clock that takes it at its end.
struct Edge {
  int net, cell, to, clock;
  double delay;
};
struct Wire {
  int net, driver, clock;  // net: -1 when it is not annealed
  double start;
};
std::vector<Edge> edges;  // from the begin of paths to their ends
std::vector<Wire> wires_of_paths;
std::vector<double> periods;
double timing_price;

// nextpnr's estimate of a wire, in nanoseconds.
double delay_of(const Edge &edge) {
  const int driver = wires_of_paths[edge.net].driver;
  if (edge.cell < 0 || driver < 0) return 0;
  const int dx = std::abs(cells[driver].x - cells[edge.cell].x);
  const int dy = std::abs(cells[driver].y - cells[edge.cell].y);
  if (!dx && !dy) return 0.15;
  return 0.08 * (6 + dx + dy + std::min(dx, 5) + std::min(dy, 5));
}

bool read_paths(FILE *file) {
  int wire_count, edge_count, clock_count;
  if (fscanf(file, "%d %d %d", &wire_count, &edge_count, &clock_count) != 3) return false;
  periods.resize(clock_count), wires_of_paths.resize(wire_count);
  std::vector<Edge> unordered(edge_count);
  for (double &period : periods)
    if (fscanf(file, "%lf", &period) != 1) return false;
  for (Wire &w : wires_of_paths)
    if (fscanf(file, "%d %d %d %lf", &w.net, &w.driver, &w.clock, &w.start) != 4) return false;
  std::vector<int> waits(wire_count), ready;  // waits: edges to a net that have not had their turn
  std::vector<std::vector<int>> from(wire_count);
  for (int i = 0; i < edge_count; i++) {
    Edge &e = unordered[i];
    if (fscanf(file, "%d %d %d %d %lf", &e.net, &e.cell, &e.to, &e.clock, &e.delay) != 5)
      return false;
    from[e.net].push_back(i);
    if (e.to >= 0) waits[e.to]++;
  }
  for (int i = 0; i < wire_count; i++)
    if (!waits[i]) ready.push_back(i);
  while (!ready.empty()) {
    const int wire = ready.back();
    ready.pop_back();
    for (int i : from[wire]) {
      edges.push_back(unordered[i]);
      if (unordered[i].to >= 0 && --waits[unordered[i].to] == 0) ready.push_back(unordered[i].to);
    }
  }
  return true;
}

// Find what is to be drawn together: the longest paths of each clock, whose delays are returned.
std::vector<double> weigh_paths() {
  constexpr double kNone = -1e9;
  std::vector<double> worst, begin, end, critical(edges.size()), delays;
  for (const Edge &e : edges) delays.push_back(delay_of(e) + e.delay);
  for (size_t clock = 0; clock < periods.size(); clock++) {
    begin.assign(wires_of_paths.size(), kNone), end.assign(wires_of_paths.size(), kNone);
    for (size_t i = 0; i < wires_of_paths.size(); i++)
      if (wires_of_paths[i].clock == static_cast<int>(clock)) begin[i] = wires_of_paths[i].start;
    double longest = 0;
    for (size_t i = 0; i < edges.size(); i++) {
      const double at = begin[edges[i].net] + delays[i];
      if (edges[i].to >= 0)
        begin[edges[i].to] = std::max(begin[edges[i].to], at);
      else if (edges[i].clock == static_cast<int>(clock))
        longest = std::max(longest, at);
    }
    for (size_t i = edges.size(); i-- > 0;) {
      const Edge &e = edges[i];
      const double rest = e.to >= 0 ? end[e.to] : e.clock == static_cast<int>(clock) ? 0 : kNone;
      end[e.net] = std::max(end[e.net], rest + delays[i]);
      const double allowed = std::max(longest, periods[clock]);
      critical[i] = std::max(critical[i], (begin[e.net] + delays[i] + rest) / allowed);
    }
    worst.push_back(longest);
  }
  pulls.assign(ends.size(), {});
  for (size_t i = 0; i < edges.size(); i++) {
    const auto [net, driver, clock, start] = wires_of_paths[edges[i].net];
    if (net < 0 || driver < 0 || edges[i].cell < 0 || critical[i] < kCritical) continue;
    const double weight = timing_price * std::pow(critical[i], kSharpness);
    auto same = [&](const Pull &pull) { return pull.sink == edges[i].cell; };
    auto found = std::find_if(pulls[net].begin(), pulls[net].end(), same);
    if (found == pulls[net].end())
      pulls[net].push_back({driver, edges[i].cell, weight});
    else
      found->weight = std::max(found->weight, weight);
  }
  for (int net = 0; net < static_cast<int>(ends.size()); net++)
    costs[net] = cost_of(net, boxes[net]);
  return worst;
}

// Tiles that have fewer free pins than others.
bool read_pins(FILE *file) {
  int count, x, y, fewer;
  if (fscanf(file, "%d", &count) != 1) return false;
  while (count--) {
    if (fscanf(file, "%d %d %d", &x, &y, &fewer) != 3) return false;
    pins_free[tile_at(x, y)] -= fewer;
  }
  return true;
}

bool read(FILE *file) {
  int cell_count, net_count, row_count;
  if (fscanf(file, "%d %d %d", &cell_count, &net_count, &row_count) != 3) return false;
  for (int i = 0; i < row_count; i++) {
    int y;
    if (fscanf(file, "%d", &y) != 1) return false;
    for (int x = kLogicLeft; x <= kLogicRight; x++) tiles[tile_at(x, y)].logic = true;
  }
  cells.resize(cell_count), ends.resize(net_count);
  for (int i = 0; i < cell_count; i++) {
    Cell &c = cells[i];
    int count;
    if (fscanf(file, " %c %d %d %d %d %d %d %d %d", &c.kind, &c.x, &c.y, &c.z, &c.tile_key,
               &c.slice_key, &c.flag, &c.previous, &count) != 9)
      return false;
    c.nets.resize(count);
    for (int &net : c.nets) {
      if (fscanf(file, "%d", &net) != 1) return false;
      ends[net].push_back(i);
    }
    Tile &tile = tiles[tile_at(c.x, c.y)];
    if (c.kind == kLut) tile.lut[c.z] = i, tile.memory |= c.flag == kMemory;
    if (c.kind == kFlipFlop) tile.ff[c.z] = i;
    if (c.kind == kRamWrite) tile.ram_write = i, tile.memory = true;
    if (c.kind != kBlockRam && c.kind != kFixed) pins[tile_at(c.x, c.y)] += count;
  }
  for (const Cell &c : cells)
    if (c.kind == kLut && c.previous >= 0 && cells[c.previous].x != c.x)
      tiles[tile_at(c.x, c.y)].continued = true;
  return read_paths(file) && read_pins(file);
}

long wires() {
  long sum = 0;
  for (const Box &box : boxes) sum += box.half();
  return sum;
}

}  // namespace

// anneal PROBLEM RESULT MOVES SEED HOT COLD PINS PRICE TIMING: moves of the whole run, temperatures
// at its begin and end, pins of a tile that cost nothing, price of the square of the others, price
// of a tile between two cells on the longest path.
int main(int argc, char **argv) {
  if (argc != 10) return 2;
  const double moves = atof(argv[3]), hot = atof(argv[5]), cold = atof(argv[6]);
  rng.state = 0x9e3779b97f4a7c15u ^ (strtoull(argv[4], nullptr, 10) * 0x2545f4914f6cdd1du);
  pin_price = atof(argv[8]), timing_price = atof(argv[9]);
  FILE *file = fopen(argv[1], "r");
  pins_free.fill(atoi(argv[7]));
  if (!file || !read(file)) return 2;
  fclose(file);
  std::vector<int> movable, block_rams;
  for (int i = 0; i < static_cast<int>(cells.size()); i++) {
    if (cells[i].kind == kLut || cells[i].kind == kFlipFlop) movable.push_back(i);
    if (cells[i].kind == kBlockRam) block_rams.push_back(i);
  }
  for (size_t net = 0; net < ends.size(); net++) {
    boxes.push_back(box_of(static_cast<int>(net)));
    weights.push_back(crossing(static_cast<int>(ends[net].size())));
  }
  costs.resize(ends.size());
  constexpr int kParts = 1000, kWeighEvery = 5;
  for (int part = 0; part < kParts && !movable.empty(); part++) {
    const double done = double(part) / kParts;
    if (part % kWeighEvery == 0) {
      const std::vector<double> worst = weigh_paths();
      if (part % (2 * kWeighEvery) == 0) {
        printf("%d%%: wires %ld, longest paths (ns)", part / 10, wires());
        for (double path : worst) printf(" %.1f", path);
        printf("\n"), fflush(stdout);
      }
    }
    temperature = hot * std::pow(cold / hot, done);
    const double reach = std::max(3.0, 40 * std::pow(0.05, done));
    for (long i = 0, n = std::lround(moves / kParts); i < n; i++) {
      if (i % kBlockRamEvery == 0 && block_rams.size() > 1)
        try_block_ram(block_rams, reach);
      else
        try_cell(movable[rng.below(static_cast<int>(movable.size()))], reach);
    }
  }
  for (const Tile &tile : tiles)
    for (int place = 0; place < kPlaces; place++)
      for (int cell : {tile.lut[place], tile.ff[place]})
        if (cell >= 0) cells[cell].z = place;
  file = fopen(argv[2], "w");
  if (!file) return 2;
  for (const Cell &c : cells) fprintf(file, "%d %d %d\n", c.x, c.y, c.z);
  return fclose(file) ? 2 : 0;
}
