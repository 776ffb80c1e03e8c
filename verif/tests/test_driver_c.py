# SPDX-License-Identifier: Apache-2.0
"""The C driver on the simulated accelerator, and as a strict compiler sees it."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hiddenfold.gen import emit
from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.hw import regmap
from hiddenfold.sw.driver.errors import REMEDIES
from hiddenfold.sw.driver.simulator import simulator_library, target_verilog
from hiddenfold.verif.bench.case import HEIGHT, WIDTH, small_model
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image

TARGET = Target.load("sim-tiny")
MODEL = small_model()
SOURCES = Path(emit.__file__).parent / "c"
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1")
IMAGES = 4

#: Runs the program of a file on the simulator; arguments: file, pictures, output, what goes wrong.
SHIM = r"""
#include "hiddenfold_driver.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *hf_create(uint64_t base, uint64_t size);
uint8_t *hf_memory(void *d);
void hf_reset(void *d, uint32_t cycles);
void hf_add_fault(void *d, uint64_t begin, uint64_t end, uint32_t r, uint32_t reads, uint32_t w);
uint32_t hf_read32(void *d, uint32_t address, uint32_t *value, uint32_t limit);
uint32_t hf_write32(void *d, uint32_t address, uint32_t value, uint32_t limit);

uint32_t hiddenfold_read(const struct hiddenfold *device, uint32_t offset)
{
    uint32_t value = 0;
    if (hf_read32(device->registers, offset, &value, 100) != 0)
        exit(90);
    return value;
}

void hiddenfold_write(const struct hiddenfold *device, uint32_t offset, uint32_t value)
{
    if (hf_write32(device->registers, offset, value, 100) != 0)
        exit(91);
}

static uint8_t file[1 << 16], rgb[1 << 16];
static int32_t logits[1 << 10];

static size_t load(const char *path, uint8_t *to, size_t room)
{
    FILE *f = fopen(path, "rb");
    size_t bytes = f ? fread(to, 1, room, f) : 0;
    if (f)
        fclose(f);
    return bytes;
}

#define TRY(call)                                           \
    do {                                                    \
        int result = (call);                                \
        if (result != 0) {                                  \
            printf("%d %s\n", result, hiddenfold_message(result)); \
            return 0;                                       \
        }                                                   \
    } while (0)

static int run(const char *how, struct hiddenfold *device, struct hiddenfold_program *program,
               uint32_t images, uint8_t *memory, uint32_t base, uint32_t bytes)
{
    struct hiddenfold_place place;
    uint32_t i;
    TRY(hiddenfold_place(program, base, bytes, images, &place));
    memcpy(memory, program->memory, program->memory_bytes);
    if (strcmp(how, "damaged") == 0)
        memory[70] ^= 1;
    if (strcmp(how, "stuck") == 0)
        hf_add_fault(device->registers, base, base + bytes, 4, 1, 1);
    hiddenfold_pack(program, rgb, images, memory + (place.image - base));
    TRY(hiddenfold_start(device, program, &place, images, 0));
    if (strcmp(how, "busy") == 0)
        TRY(hiddenfold_start(device, program, &place, images, 0));
    if (strcmp(how, "abort") == 0 || strcmp(how, "stuck") == 0) {
        if (hiddenfold_wait(device, 5) != HIDDENFOLD_FAIL_TIMEOUT)
            return 92;
        TRY(hiddenfold_abort(device, 1000));
    }
    TRY(hiddenfold_wait(device, strcmp(how, "timeout") == 0 ? 5 : 1000000));
    hiddenfold_unpack(program, memory + (place.output - base), images, logits);
    printf("%lu %lu\n", (unsigned long)hiddenfold_register(device, HIDDENFOLD_REG_IMAGES_DONE),
           (unsigned long)hiddenfold_counter(device, HIDDENFOLD_REG_READ_BYTES));
    for (i = 0; i < images; ++i)
        printf("%lu\n", (unsigned long)hiddenfold_best(program, logits + i * program->classes));
    for (i = 0; i < images * program->classes; ++i)
        printf("%ld\n", (long)logits[i]);
    return 0;
}

int main(int count, char **words)
{
    const uint32_t base = 0x20000000, bytes = 1 << 16;
    struct hiddenfold device;
    struct hiddenfold_program program;
    void *simulator = hf_create(base, bytes);
    size_t size;
    int result;
    if (count != 5 || simulator == NULL)
        return 93;
    hf_reset(simulator, 8);
    size = load(words[1], file, sizeof file);
    if (load(words[2], rgb, sizeof rgb) == 0)
        return 94;
    TRY(hiddenfold_open(&device, simulator));
    TRY(hiddenfold_parse(&program, file, size));
    result = run(words[4], &device, &program, (uint32_t)atoi(words[3]), hf_memory(simulator), base,
                 strcmp(words[4], "small") == 0 ? 4096 : bytes);
    if (result == 0 && strcmp(words[4], "abort") == 0)
        result = run("again", &device, &program, (uint32_t)atoi(words[3]), hf_memory(simulator),
                     base, bytes);
    return result;
}
"""


def c_compile(folder: Path, *arguments) -> None:
    # A C++ compiler of the kind that we need comes with one for C.
    command = [shutil.which("cc") or "gcc", *STRICT, "-I", folder, "-I", SOURCES, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(6)
    return np.stack([random_image(rng, HEIGHT, WIDTH) for _ in range(IMAGES)])


@pytest.fixture(scope="module")
def shim(tmp_path_factory, images):
    """The folder with the program ``shim`` and the pictures."""
    folder = tmp_path_factory.mktemp("c")
    (folder / "hiddenfold.h").write_text(emit.c_header(TARGET))
    (folder / "shim.c").write_text(SHIM)
    library = simulator_library(
        target_verilog(TARGET, print), bus_bits=TARGET.bus_bits, trace=False, log=print
    )
    c_compile(
        folder,
        *("-DHIDDENFOLD_CUSTOM_ACCESS", folder / "shim.c", SOURCES / "hiddenfold_driver.c"),
        *(library, f"-Wl,-rpath,{library.parent}", "-o", folder / "shim"),
    )
    (folder / "images").write_bytes(images.tobytes())
    return folder


def run(shim: Path, data: bytes, images: int = IMAGES, how: str = "good") -> list[str]:
    (shim / "net.hfp").write_bytes(data)
    command = [shim / "shim", shim / "net.hfp", shim / "images", str(images), how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.parametrize("batch", [1, 2])
def test_c_driver_classifies(shim, images, batch):
    program = compile_model(MODEL, TARGET, batch=batch)
    expected = Golden(MODEL).run(images)
    lines = run(shim, program.to_bytes())
    assert lines[0] == f"{IMAGES} {program.predicted_bytes_read * IMAGES}"
    assert lines[1 : 1 + IMAGES] == [str(best) for best in expected.argmax(axis=1)]
    assert lines[1 + IMAGES :] == [str(logit) for logit in expected.ravel()]


def damaged(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_c_driver_refuses_files(shim):
    good = compile_model(MODEL, TARGET).to_bytes()
    traced = compile_model(MODEL, TARGET, trace=True).to_bytes()
    foreign = compile_model(MODEL, Target.load("peer-64")).to_bytes()
    for data in (b"HFP1", damaged(good, 0), damaged(good, 300), good[:-1], traced):
        assert run(shim, data)[0].startswith("-4 no program file, a damaged one,")
    assert run(shim, foreign)[0].startswith("-3 the program was compiled for another target")


def test_c_driver_reports_errors(shim, images):
    data = compile_model(MODEL, TARGET, batch=2).to_bytes()
    assert run(shim, data, 3)[0].startswith("-6 the number of images must be a multiple of")
    assert run(shim, data, how="small")[0].startswith("-5 not enough memory")
    assert run(shim, data, how="busy")[0].startswith("-7 a run is under way")
    assert run(shim, data, how="timeout")[0].startswith("-8 the run has not ended")
    assert run(shim, data, how="stuck")[0].startswith("-9 the run does not stop")
    assert run(shim, data, how="damaged")[0].startswith("2 INSTRUCTION_SIGNATURE: the program in")
    first, *rest = run(shim, data, how="abort")
    assert first.startswith("11 ABORTED: the run was aborted")
    assert rest[0].startswith(f"{IMAGES} ")


def test_header_has_a_remedy_for_each_error():
    text = emit.c_header(TARGET)
    for error, remedy in REMEDIES.items():
        assert f'X({error.name}, {int(error)}, "{remedy}")' in text


def test_c_driver_maps_registers(tmp_path):
    """By UIO, here a file, and as C++."""
    (tmp_path / "hiddenfold.h").write_text(emit.c_header(TARGET))
    (tmp_path / "main.c").write_text(
        '#include "hiddenfold_driver.h"\n#include <stdio.h>\n'
        "int main(int count, char **words) {\n"
        "    struct hiddenfold device;\n"
        "    int result = count == 2 ? hiddenfold_uio_open(&device, words[1]) : 1;\n"
        "    if (result == 0) {\n"
        '        printf("%lx ", (unsigned long)hiddenfold_register(&device, 8));\n'
        "        hiddenfold_uio_close(&device);\n"
        "    }\n"
        '    printf("%s\\n", hiddenfold_message(result));\n'
        "    return 0;\n}\n"
    )
    uio = ("-DHIDDENFOLD_UIO", tmp_path / "main.c", SOURCES / "hiddenfold_driver.c")
    c_compile(tmp_path, *uio, "-o", tmp_path / "main")
    registers = np.zeros(1024, "<u4")

    def found() -> str:
        (tmp_path / "uio").write_bytes(registers.tobytes())
        command = [tmp_path / "main", tmp_path / "uio"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert found().startswith("no Hiddenfold accelerator: check the address")
    registers[0] = regmap.ID_VALUE
    assert found().startswith("another major version")
    registers[1:3] = regmap.VERSION_VALUE, 0xABCD
    assert found() == "abcd good\n"
    (tmp_path / "uio").unlink()
    command = [tmp_path / "main", tmp_path / "uio"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert text == "the operating system refused: see errno\n"


def test_generate_writes_the_c_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(emit, "verilog", lambda target, *, family: "// nothing\n")
    monkeypatch.setattr(emit.ports, "markdown", lambda target: "nothing\n")
    emit.generate(TARGET, tmp_path / "out")
    c_compile(
        tmp_path / "out", "-c", tmp_path / "out" / "hiddenfold_driver.c", "-o", tmp_path / "o"
    )
