"""Entries as a trie of tokens, which is walked from every token of a block at once."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metadata import lookup

#: In place of an entry: none ends here.
NONE = np.uint32(0xFFFFFFFF)

#: Flags of nodes: some edge leaves it; it is a token by which some edge leaves a node.
_STARTS, _FOLLOWS = np.uint8(1), np.uint8(2)

#: Times this, modulo 2**64, is one to one, and spreads the low bits over the high ones.
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Trie(NamedTuple):
    """The trie of one list.

    Node 0 is for what is no token of an entry: nothing ends there, and no edge leaves it or leads on by it. Node t, to
    len(tokens), is where its t-th token leads to from the root; where other edges lead follows.

    Attributes:
        tokens: distinct tokens, in the order of their hashes. binary.
        hashes: of the tokens, distinct. uint64.
        hash_index: `lookup.index(hashes)`.
        hashing: the hash's seed, and how many words of eight bytes the longest token has. uint64, shape (2,).
        edges: keys of all (node, token), sorted. uint64.
        edge_index: `lookup.index(edges)`.
        edge_bits: for each value of the keys' high bits a bit, 1 where there is such a key. uint8.
        children: where each edge leads to. uint32.
        entries: the entry that ends in each node, or NONE. uint32.
        flags: of each node. uint8.
    """

    tokens: pa.BinaryArray
    hashes: np.ndarray
    hash_index: np.ndarray
    hashing: np.ndarray
    edges: np.ndarray
    edge_index: np.ndarray
    edge_bits: np.ndarray
    children: np.ndarray
    entries: np.ndarray
    flags: np.ndarray


def build(numbers: np.ndarray, distinct: pa.BinaryArray, entries: np.ndarray) -> Trie:
    """The trie of entries.

    Args:
        numbers, distinct: the entries' tokens, as `tokens.split` gives them.
        entries: what each is called. uint32.
    """
    words = -(-pc.max(pc.binary_length(distinct)).as_py() // 8)
    hashing = np.array([0, words], np.uint64)
    while len(np.unique(hashes := _hash(distinct, hashing))) < len(distinct):
        hashing[0] += np.uint64(1)
    order = np.argsort(hashes)
    token = np.empty(len(order), np.int64)
    token[order] = np.arange(1, len(order) + 1)
    parents, steps, last = _edges(token[numbers], np.flatnonzero(numbers == 0), len(order) + 1)
    nodes = len(order) + 1 + len(parents)
    entry, flags = np.full(nodes, NONE), np.zeros(nodes, np.uint8)
    entry[last] = entries
    flags[parents] |= _STARTS
    flags[steps] |= _FOLLOWS
    keys = _key(parents, steps)
    by_key = np.argsort(keys)
    return Trie(
        distinct.take(pa.array(order)), hashes[order], lookup.index(hashes[order]), hashing,
        keys[by_key], lookup.index(keys[by_key]), _bits(keys), (by_key + len(order) + 1).astype(np.uint32),
        entry, flags,
    )  # fmt: skip


def _edges(tokens: np.ndarray, ends: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges, whose children are numbered from `nodes` on in their order: node and token; and each entry's node."""
    start, length = ends[:-1] + 1, np.diff(ends) - 1
    # Without padding the empty entry has no token, but occurs in every text, as END does.
    start, length = start - (length == 0), np.maximum(length, 1)
    node = tokens[start]
    parents, steps, depth = [node[:0]], [node[:0]], 1
    on = np.flatnonzero(length > depth)
    while len(on):
        edge, child = np.unique(node[on] << 32 | tokens[start[on] + depth], return_inverse=True)
        parents.append(edge >> 32)
        steps.append(edge & 0xFFFFFFFF)
        node[on] = nodes + child
        nodes, depth = nodes + len(edge), depth + 1
        on = on[length[on] > depth]
    return np.concatenate(parents), np.concatenate(steps), node


def walk(trie: Trie, numbers: np.ndarray, distinct: pa.BinaryArray) -> tuple[np.ndarray, np.ndarray]:
    """Each place where an entry's run begins, as the token's position, and the entry; in no order.

    Args:
        numbers, distinct: the texts' tokens, as `tokens.split` gives them.
    """
    known = _known(trie, distinct)
    token, flags, entry = known.take(numbers), trie.flags[known].take(numbers), trie.entries[known].take(numbers)
    entry[0] = NONE  # that END ends no text
    place = np.flatnonzero(entry != NONE)
    places, entries = [place], [entry[place]]
    place = np.flatnonzero(_leads(flags[:-1], flags[1:]))
    node, depth = token[place], 1
    while len(place):
        on, node = _follow(trie, node, token[place + depth])
        place, entry = place[on], trie.entries[node]
        ends = np.flatnonzero(entry != NONE)
        places.append(place[ends])
        entries.append(entry[ends])
        depth += 1  # there is one more token: what has matched is no END, and END is last
        on = np.flatnonzero(_leads(trie.flags[node], flags[place + depth]))
        place, node = place[on], node[on]
    return np.concatenate(places), np.concatenate(entries)


def _leads(node: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Whether an edge from a node by a token is possible at all, by their flags. bool."""
    return (node & _STARTS & token >> np.uint8(1)).view(np.bool_)


def _known(trie: Trie, distinct: pa.BinaryArray) -> np.ndarray:
    """The trie's token that each equals, or 0. uint32."""
    which, at = lookup.find(_hash(distinct, trie.hashing), trie.hashes, trie.hash_index)
    equal = pc.equal(distinct.take(pa.array(which)), trie.tokens.take(pa.array(at))).to_numpy(zero_copy_only=False)
    token = np.zeros(len(distinct), np.uint32)
    token[which[equal]] = at[equal] + 1
    return token


def _follow(trie: Trie, node: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the nodes an edge by their token leaves, in no order, and where it leads to."""
    key = _key(node, token)
    bit = key >> np.uint64(62 - len(trie.edge_bits).bit_length())
    byte = trie.edge_bits[(bit >> np.uint64(3)).view(np.int64)]
    likely = np.flatnonzero(byte >> (bit.astype(np.uint8) & np.uint8(7)) & np.uint8(1))
    which, at = lookup.find(key[likely], trie.edges, trie.edge_index)
    return likely[which], trie.children[at]


def _bits(keys: np.ndarray) -> np.ndarray:
    """`edge_bits`: at most one in 16 set."""
    bits = max(3, len(keys).bit_length() + 4)
    there = np.zeros(1 << bits, np.bool_)
    there[(keys >> np.uint64(64 - bits)).view(np.int64)] = True
    return np.packbits(there, bitorder="little")


def _key(node: np.ndarray, token: np.ndarray) -> np.ndarray:
    """A number of each (node, token), and of no other. uint64."""
    return (node.astype(np.uint64) << np.uint64(32) | token.astype(np.uint64)) * _ODD


def _hash(tokens: pa.BinaryArray, hashing: np.ndarray) -> np.ndarray:
    """A hash of each token's length and bytes, to those of the longest token that is hashed in full. uint64."""
    _, offsets, values = tokens.buffers()
    bounds = np.frombuffer(offsets, np.int32)[tokens.offset : tokens.offset + len(tokens) + 1]
    data = b"".join((memoryview(values)[bounds[0] : bounds[-1]], bytes(8)))
    words = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))  # the eight bytes from each byte on
    at, left = bounds[:-1] - bounds[0], np.diff(bounds)
    hashes, on = left.astype(np.uint64) + hashing[0], np.arange(len(left))
    for _ in range(int(hashing[1])):
        unused = np.uint64(64) - (np.minimum(left, 8).astype(np.uint64) << np.uint64(3))
        mixed = (hashes[on] ^ words[at] << unused) * _ODD
        hashes[on] = mixed ^ mixed >> np.uint64(32)
        longer = np.flatnonzero(left > 8)
        on, at, left = on[longer], at[longer] + 8, left[longer] - 8
    return hashes
