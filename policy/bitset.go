package policy

import (
	"encoding/binary"
	"math/bits"
)

// setID names a set of rules within one ruleSets; 0 is the empty set.
type setID uint32

// blockRules is how many rules a block tells of: 64 words of 64 bits.
const blockRules = 64 * 64

// block is a set's part of 4096 rules. Bit i of its mask tells that word i is not 0; the words that are not 0 stand next
// to each other in ruleSets.words, from at on.
type block struct {
	mask uint64
	at   uint32
}

// ruleSets holds sets of rules, each of them once. A set has the same number of blocks as any other, and lists of words are
// shared between blocks, so that a set which differs from another one by a few rules costs its blocks of 16 bytes and at most
// 512 bytes for each block that differs.
type ruleSets struct {
	perSet int     // blocks
	blocks []block // set i has perSet of them, from i*perSet on
	words  []uint64
}

func (s *ruleSets) set(id setID) []block {
	at := int(id) * s.perSet
	return s.blocks[at : at+s.perSet]
}

func (s *ruleSets) word(b *block, i int) uint64 {
	bit := uint64(1) << (i & 63)
	if b.mask&bit == 0 {
		return 0
	}
	return s.words[int(b.at)+bits.OnesCount64(b.mask&(bit-1))]
}

// union is two sets that are looked at as one.
type union struct{ a, b setID }

// first is the lowest rule that is in one and in all three unions, or -1. Words that the masks rule out are not read.
func (s *ruleSets) first(one setID, x, y, z union) int {
	p := s.set(one)
	xa, xb, ya, yb, za, zb := s.set(x.a), s.set(x.b), s.set(y.a), s.set(y.b), s.set(z.a), s.set(z.b)
	for k := range p {
		mask := p[k].mask & (xa[k].mask | xb[k].mask) & (ya[k].mask | yb[k].mask) & (za[k].mask | zb[k].mask)
		for ; mask != 0; mask &= mask - 1 {
			i := bits.TrailingZeros64(mask)
			w := s.word(&p[k], i) & (s.word(&xa[k], i) | s.word(&xb[k], i))
			if w == 0 {
				continue
			}
			w &= (s.word(&ya[k], i) | s.word(&yb[k], i)) & (s.word(&za[k], i) | s.word(&zb[k], i))
			if w != 0 {
				return k*blockRules + i*64 + bits.TrailingZeros64(w)
			}
		}
	}
	return -1
}

// setMaker fills a ruleSets. What it needs to find equal sets and lists of words again goes with it.
type setMaker struct {
	ruleSets
	setsBy  map[string]setID
	wordsBy map[string]uint32
	draft   []block
	key     []byte
}

// newSetMaker makes the sets for chains of n rules, with the empty set in it.
func newSetMaker(n int) *setMaker {
	m := &setMaker{setsBy: map[string]setID{}, wordsBy: map[string]uint32{}}
	m.perSet = max(1, (n+blockRules-1)/blockRules)
	m.draft = make([]block, m.perSet)
	m.alter(0, nil, nil)
	return m
}

// alter is the set that a set becomes without some rules, then with some. Both lists ascend.
func (m *setMaker) alter(from setID, without, with []int32) setID {
	if len(m.blocks) > 0 {
		copy(m.draft, m.set(from))
	}
	for len(without) > 0 || len(with) > 0 {
		next := without
		if len(next) == 0 {
			next = with
		}
		k := next[0] / blockRules
		words := m.unpack(&m.draft[k])
		for ; len(without) > 0 && without[0]/blockRules == k; without = without[1:] {
			words[without[0]%blockRules/64] &^= 1 << (without[0] % 64)
		}
		for ; len(with) > 0 && with[0]/blockRules == k; with = with[1:] {
			words[with[0]%blockRules/64] |= 1 << (with[0] % 64)
		}
		m.draft[k] = m.pack(&words)
	}
	return m.add()
}

func (m *setMaker) unpack(b *block) (words [64]uint64) {
	for i := range words {
		words[i] = m.word(b, i)
	}
	return words
}

func (m *setMaker) pack(words *[64]uint64) block {
	var b block
	m.key = m.key[:0]
	for i, w := range words {
		if w != 0 {
			b.mask |= 1 << i
			m.key = binary.LittleEndian.AppendUint64(m.key, w)
		}
	}
	if b.mask == 0 {
		return b
	}
	at, ok := m.wordsBy[string(m.key)]
	if !ok {
		at = uint32(len(m.words))
		m.wordsBy[string(m.key)] = at
		for _, w := range words {
			if w != 0 {
				m.words = append(m.words, w)
			}
		}
	}
	b.at = at
	return b
}

// add is the set that the draft describes.
func (m *setMaker) add() setID {
	m.key = m.key[:0]
	for _, b := range m.draft {
		m.key = binary.LittleEndian.AppendUint64(m.key, b.mask)
		m.key = binary.LittleEndian.AppendUint32(m.key, b.at)
	}
	id, ok := m.setsBy[string(m.key)]
	if !ok {
		id = setID(len(m.blocks) / m.perSet)
		m.setsBy[string(m.key)] = id
		m.blocks = append(m.blocks, m.draft...)
	}
	return id
}
