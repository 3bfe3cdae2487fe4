package nydusblob

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
)

// Vectors 2, 4 (its beginning), 15 to 18 of IEEE 1619-2007, annex B.
func TestXTSVectors(t *testing.T) {
	t.Parallel()
	long := "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0bfbebdbcbbbab9b8b7b6b5b4b3b2b1b0"
	for _, c := range []struct{ name, key, iv, plain, stored string }{
		{"2", "1111111111111111111111111111111122222222222222222222222222222222", "33333333330000000000000000000000",
			"4444444444444444444444444444444444444444444444444444444444444444", "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0"},
		{"15", long, "9a785634120000000000000000000000", "000102030405060708090a0b0c0d0e0f10", "6c1625db4671522d3d7599601de7ca09ed"},
		{"16", long, "9a785634120000000000000000000000", "000102030405060708090a0b0c0d0e0f1011", "d069444b7a7e0cab09e24447d24deb1fedbf"},
		{"17", long, "9a785634120000000000000000000000", "000102030405060708090a0b0c0d0e0f101112", "e5df1351c0544ba1350b3363cd8ef4beedbf9d"},
		{"18", long, "9a785634120000000000000000000000", "000102030405060708090a0b0c0d0e0f10111213", "9d84c813f719aa2c7be3f66171c7c5c2edbf9dac"},
	} {
		k := Key{Key: [KeySize]byte(unhex(t, c.key)), IV: [IVSize]byte(unhex(t, c.iv))}
		e, err := NewCipher(&k)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Append(nil, unhex(t, c.plain)); hex.EncodeToString(got) != c.stored {
			t.Errorf("vector %s: %x", c.name, got)
		}
		if got, err := e.Decrypt(unhex(t, c.stored)); err != nil || hex.EncodeToString(got) != c.plain {
			t.Errorf("vector %s back: %x, %v", c.name, got, err)
		}
	}
}

func testCipher(t testing.TB) *Cipher {
	t.Helper()
	k := Key{IV: [IVSize]byte(bytes.Repeat([]byte{7}, IVSize))}
	for i := range k.Key {
		k.Key[i] = byte(i)
	}
	c, err := NewCipher(&k)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCipherLengths(t *testing.T) {
	t.Parallel()
	c := testCipher(t)
	for n := 1; n < 100; n++ {
		p := bytes.Repeat([]byte{byte(n)}, n)
		stored := c.Append([]byte("before"), p)[len("before"):]
		if int64(len(stored)) != EncryptedSize(int64(n)) || bytes.Contains(stored, p) {
			t.Errorf("%d bytes stored as %d", n, len(stored))
		}
		if got, err := c.Decrypt(stored); err != nil || !bytes.Equal(got, p) {
			t.Errorf("%d bytes: %x, %v", n, got, err)
		}
	}
	for n := range blockSize {
		if _, err := c.Decrypt(make([]byte, n)); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := NewCipher(&Key{}); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("equal halves: %v", err)
	}
}

func FuzzCipher(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Add([]byte("0123456789abcdef\x78\x90"))
	f.Fuzz(func(t *testing.T, p []byte) {
		c := testCipher(t)
		if len(p) == 0 {
			return // no part of a blob is empty
		}
		if len(p) >= blockSize {
			if plain, err := c.Decrypt(p); err != nil || len(plain) > len(p) {
				t.Fatal(plain, err)
			}
		}
		got, err := c.Decrypt(c.Append(nil, p))
		ambiguous := len(p) == paddedSize && bytes.HasSuffix(p, paddingMark[:])
		if err != nil || !bytes.Equal(got, p) && !ambiguous {
			t.Fatalf("%x gives %x, %v", p, got, err)
		}
	})
}
