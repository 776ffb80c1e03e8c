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
std::array<Tile, kTiles> tiles;
std::array<int, kTiles> pins;  // ends of nets in a tile
int pins_free;                 // of a tile, that cost nothing
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

double price(int count) {
  const double over = count - pins_free;
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

// Keep a move whose cells have been moved, or take them back.
bool keep() {
  static std::vector<int> stamps(ends.size()), touched;
  static std::vector<Box> after;
  static int stamp = 0;
  stamp++, touched.clear(), after.clear();
  double change = 0;
  for (const Moved &m : moved)
    for (int net : cells[m.cell].nets)
      if (stamps[net] != stamp) stamps[net] = stamp, touched.push_back(net);
  for (int net : touched) {
    after.push_back(box_after(net));
    change += weights[net] * after.back().half() - costs[net];
  }
  auto carry_pins = [&](bool back) {
    for (const Moved &m : moved) {
      const Cell &c = cells[m.cell];
      const int count = static_cast<int>(c.nets.size());
      int from = tile_at(m.x, m.y), to = tile_at(c.x, c.y);
      if (back) std::swap(from, to);
      change -= price(pins[from]) + (from == to ? 0 : price(pins[to]));
      pins[from] -= count, pins[to] += count;
      change += price(pins[from]) + (from == to ? 0 : price(pins[to]));
    }
  };
  carry_pins(false);
  if (change <= 0 || rng.unit() < std::exp(-change / temperature)) {
    for (size_t i = 0; i < touched.size(); i++) {
      const int net = touched[i];
      boxes[net] = after[i], costs[net] = weights[net] * after[i].half();
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

// Try to move one cell, with what must go with it, near its nets or within `reach`.
void try_cell(int index, double reach) {
  const Cell &cell = cells[index];
  auto [x, y] = std::pair<int, int>(cell.x, cell.y);
  const bool to_nets = rng.next() & 1;
  if (to_nets) std::tie(x, y) = middle_of_nets(index);
  const int window = static_cast<int>(to_nets ? std::max(1.0, reach / 6) : std::max(2.0, reach));
  x = std::clamp(x + rng.below(2 * window + 1) - window, kLogicLeft, kLogicRight);
  y = std::clamp(y + rng.below(2 * window + 1) - window, kLogicTop, kLogicBottom);
  const int a = tile_at(cell.x, cell.y), b = tile_at(x, y);
  if (!tiles[b].logic) return;
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
  return true;
}

long wires() {
  long sum = 0;
  for (const Box &box : boxes) sum += box.half();
  return sum;
}

}  // namespace

// anneal PROBLEM RESULT MOVES SEED HOT COLD PINS PRICE: moves of the whole run, temperatures at its
// begin and end, pins of a tile that cost nothing, price of the square of the others.
int main(int argc, char **argv) {
  if (argc != 9) return 2;
  const double moves = atof(argv[3]), hot = atof(argv[5]), cold = atof(argv[6]);
  rng.state = 0x9e3779b97f4a7c15u ^ (strtoull(argv[4], nullptr, 10) * 0x2545f4914f6cdd1du);
  pins_free = atoi(argv[7]), pin_price = atof(argv[8]);
  FILE *file = fopen(argv[1], "r");
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
    costs.push_back(weights.back() * boxes.back().half());
  }
  printf("wires %ld\n", wires());
  constexpr int kParts = 1000;
  for (int part = 0; part < kParts && !movable.empty(); part++) {
    const double done = double(part) / kParts;
    temperature = hot * std::pow(cold / hot, done);
    const double reach = std::max(3.0, 40 * std::pow(0.05, done));
    for (long i = 0, n = std::lround(moves / kParts); i < n; i++) {
      if (i % kBlockRamEvery == 0 && block_rams.size() > 1)
        try_block_ram(block_rams, reach);
      else
        try_cell(movable[rng.below(static_cast<int>(movable.size()))], reach);
    }
    if (part % 10 == 9) printf("%d%%: wires %ld\n", part / 10 + 1, wires()), fflush(stdout);
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
