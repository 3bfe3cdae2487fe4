package ext4

import "testing"

// The hashes are those of debugfs 1.47.0 (dx_hash).
func TestNameHash(t *testing.T) {
	t.Parallel()
	names := [4]string{"a", "hello.txt", "a name that is longer than thirty-two bytes, by far", "\xe4\xff\x80x"}
	seed := [4]uint32{0x04030201, 0x08070605, 0x0C0B0A09, 0x100F0E0D}
	for _, c := range []struct {
		version uint8
		seed    [4]uint32
		want    [4]uint32
	}{
		{hashLegacy, [4]uint32{}, [4]uint32{0xE74B53E2, 0x65A05776, 0x7C9F5104, 0xB992A694}},
		{hashLegacy, seed, [4]uint32{0xE74B53E2, 0x65A05776, 0x7C9F5104, 0xB992A694}},
		{hashHalfMD4, [4]uint32{}, [4]uint32{0xD5FA7D7A, 0xA26E1D86, 0xAB1BF068, 0x30811B28}},
		{hashHalfMD4, seed, [4]uint32{0x8D08EC4C, 0xAC15D19C, 0x089D0286, 0xFFC0250C}},
		{hashTEA, [4]uint32{}, [4]uint32{0x6D0EA4C0, 0x5107C3F2, 0xFE24FBA0, 0x2A048086}},
		{hashTEA, seed, [4]uint32{0xF53528F0, 0x8912606C, 0x5257E9B8, 0x71696F2A}},
	} {
		for i, name := range names {
			if got := nameHash(name, c.version, c.seed); got != c.want[i] {
				t.Errorf("version %d, seed %x: hash of %q is %#x, want %#x", c.version, c.seed, name, got, c.want[i])
			}
			// ASCII is the same, signed or not.
			if got := nameHash(name, c.version+hashUnsigned, c.seed); (got == c.want[i]) != (i < 3) {
				t.Errorf("version %d, unsigned: hash of %q is %#x", c.version, name, got)
			}
		}
	}
}
