# SPDX-License-Identifier: Apache-2.0
"""What an instruction is refused for before it begins: FIELD and WINDOW of spec 9."""

from .memory import Stop


def check(i, target, scratch_bytes):
    """Raise `Stop` for a field outside its domain, then for an address outside its memory."""
    if any(CHECKS.get(i.name, lambda *_: [])(i, target)):
        raise Stop("FIELD", i.name)
    words = target["act_banks"] * target["act_bank_words"]
    starts = [getattr(i, name) for name in ADDRESSES.get(i.name, ())]
    if i.name == "CONV":
        starts += [i.res] * i.residual + [i.dst] * (not i.logits)
    outside = any(start >= words for start in starts)
    if i.name in ("LOAD", "SAVE"):
        outside |= i.offset + i.count * target["lanes"] > scratch_bytes
        outside |= max(starts) + i.count > words
    if outside:
        raise Stop("WINDOW", i.name)


def of_map(i, largest=7):
    """What is wrong with the fields that IMAGE, CONV and POOL share."""
    yield i.kernel not in (1, 3, 5, 7) or i.kernel > largest
    yield i.stride not in (1, 2)
    yield 0 in (i.in_h, i.in_w, i.out_h, i.out_w)
    yield i.top > i.kernel // 2


def of_image(i, target):
    """What is wrong with an IMAGE."""
    yield from of_map(i, target["stem_kernel"])
    yield i.in_w > target["image_width"]
    yield i.out_words == 0


def of_pool(i, _):
    """What is wrong with a POOL."""
    yield from of_map(i)
    yield i.in_words == 0


def of_conv(i, target):
    """What is wrong with a CONV."""
    yield from of_map(i)
    yield not 1 <= i.passes <= 8 // target["planes"]
    yield 0 in (i.blocks, i.in_words, i.out_words, i.images, i.tile_rows, i.tile_images, i.count)
    yield i.tile_images > 1 and i.tile_rows != i.out_h
    yield i.tile_images * i.tile_rows * i.out_w > target["psum_depth"]
    yield i.free and not i.frozen
    yield i.cached and not target["mask_cache"]
    if i.logits:
        yield i.residual or i.kernel != 1 or i.stride != 1
    else:
        yield not 1 <= i.out_bits <= 8


def of_transfer(i, target):
    """What is wrong with a LOAD or SAVE."""
    yield i.count == 0
    yield i.offset % target["lanes"]


CHECKS = {
    "IMAGE": of_image,
    "POOL": of_pool,
    "CONV": of_conv,
    "LOAD": of_transfer,
    "SAVE": of_transfer,
    "STORE": lambda i, _: [i.count == 0],
    "END": lambda i, _: [i.images == 0],
}
ADDRESSES = {
    "IMAGE": ("dst",),
    "POOL": ("src", "dst"),
    "CONV": ("src",),
    "STORE": ("src",),
    "LOAD": ("dst",),
    "SAVE": ("src",),
}
