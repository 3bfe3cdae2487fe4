package ext4

import "math/bits"

// Hashes of names in directories, by the numbers that they have there; with the flag of unsigned hashes, 3 is added.
const (
	hashLegacy  = 0
	hashHalfMD4 = 1
	hashTEA     = 2

	hashUnsigned = 3 // the first of those that take bytes as unsigned
	hashVersions = 6

	// hashEnd stands for the end of a directory; no name has it.
	hashEnd = 0x7FFFFFFF << 1
)

// nameHash returns the hash of a name: one of the above by its number, and half MD4 for other numbers. Its lowest bit is 0.
func nameHash(name string, version uint8, seed [4]uint32) uint32 {
	char := func(c byte) uint32 { return uint32(int32(int8(c))) }
	if version >= hashUnsigned {
		char = func(c byte) uint32 { return uint32(c) }
	}
	state := [4]uint32{0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476}
	if seed != [4]uint32{} {
		state = seed
	}
	var h uint32
	switch version % hashUnsigned {
	case hashLegacy:
		h = legacyHash(name, char)
	case hashTEA:
		var in [4]uint32
		for p := name; len(p) > 0; p = p[min(16, len(p)):] {
			hashWords(in[:], p, char)
			tea(&state, &in)
		}
		h = state[0]
	default:
		var in [8]uint32
		for p := name; len(p) > 0; p = p[min(32, len(p)):] {
			hashWords(in[:], p, char)
			halfMD4(&state, &in)
		}
		h = state[1]
	}
	if h &^= 1; h == hashEnd {
		h = (hashEnd>>1 - 1) << 1
	}
	return h
}

// hashWords fills words with the bytes of a name, padded with its length.
func hashWords(words []uint32, p string, char func(byte) uint32) {
	pad := uint32(len(p)) | uint32(len(p))<<8
	pad |= pad << 16
	p = p[:min(len(p), 4*len(words))]
	for i := range words {
		v := pad
		for j := 0; j < 4 && 4*i+j < len(p); j++ {
			v = char(p[4*i+j]) + v<<8
		}
		words[i] = v
	}
}

func halfMD4(state *[4]uint32, in *[8]uint32) {
	const k2, k3 = 0x5A827999, 0x6ED9EBA1
	f := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	g := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	h := func(x, y, z uint32) uint32 { return x ^ y ^ z }
	a, b, c, d := state[0], state[1], state[2], state[3]
	for i := 0; i < 8; i += 4 {
		a = bits.RotateLeft32(a+f(b, c, d)+in[i], 3)
		d = bits.RotateLeft32(d+f(a, b, c)+in[i+1], 7)
		c = bits.RotateLeft32(c+f(d, a, b)+in[i+2], 11)
		b = bits.RotateLeft32(b+f(c, d, a)+in[i+3], 19)
	}
	for i := 1; i >= 0; i-- {
		a = bits.RotateLeft32(a+g(b, c, d)+in[i]+k2, 3)
		d = bits.RotateLeft32(d+g(a, b, c)+in[i+2]+k2, 5)
		c = bits.RotateLeft32(c+g(d, a, b)+in[i+4]+k2, 9)
		b = bits.RotateLeft32(b+g(c, d, a)+in[i+6]+k2, 13)
	}
	for _, i := range [2][4]int{{3, 7, 2, 6}, {1, 5, 0, 4}} {
		a = bits.RotateLeft32(a+h(b, c, d)+in[i[0]]+k3, 3)
		d = bits.RotateLeft32(d+h(a, b, c)+in[i[1]]+k3, 9)
		c = bits.RotateLeft32(c+h(d, a, b)+in[i[2]]+k3, 11)
		b = bits.RotateLeft32(b+h(c, d, a)+in[i[3]]+k3, 15)
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}

func tea(state *[4]uint32, in *[4]uint32) {
	const delta = 0x9E3779B9
	var sum uint32
	a, b := state[0], state[1]
	for range 16 {
		sum += delta
		a += (b<<4 + in[0]) ^ (b + sum) ^ (b>>5 + in[1])
		b += (a<<4 + in[2]) ^ (a + sum) ^ (a>>5 + in[3])
	}
	state[0] += a
	state[1] += b
}

func legacyHash(name string, char func(byte) uint32) uint32 {
	h0, h1 := uint32(0x12A3FE2D), uint32(0x37ABE8F9)
	for i := range len(name) {
		h := h1 + (h0 ^ char(name[i])*7152373)
		if h&0x80000000 != 0 {
			h -= 0x7FFFFFFF
		}
		h1, h0 = h0, h
	}
	return h0 << 1
}
