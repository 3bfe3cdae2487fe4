package recompress

import (
	"testing"

	"github.com/lazuli-project/lazuli/flate"
)

// script makes a content of bytes that say how it goes on, with matches that are right, missing, or wrong.
func script(data []byte) content {
	const most = 400_000
	var c content
	take := func() int {
		if len(data) == 0 {
			return 0
		}
		v := data[0]
		data = data[1:]
		return int(v)
	}
	for len(data) > 0 && len(c.plain) < most {
		op, n := take(), take()
		at := len(c.plain)
		switch op % 8 {
		case 0: // literals
			n = min(n%64, len(data))
			c.plain = append(c.plain, data[:n]...)
			data = data[n:]
		case 1: // a run
			v := byte(take())
			for range n * (1 + op>>3*8) {
				c.plain = append(c.plain, v)
			}
		case 2: // pseudorandom bytes
			x := uint32(take()) + 1
			for range n * (1 + op>>3) {
				x = x*1664525 + 1013904223
				c.plain = append(c.plain, byte(x>>24))
			}
		case 3: // a match of anything
			c.matches = append(c.matches, flate.Match{At: uint32(take() | take()<<8 | op>>3<<16), Length: uint16(n), Distance: uint16(take() | take()<<8)})
		default: // a match, which is noted, in part, or not
			d := 1 + take() + take()<<8
			if d > at {
				if op>>3%4 == 0 {
					c.matches = append(c.matches, flate.Match{At: uint32(at), Length: uint16(n + 3), Distance: uint16(d)})
				}
				continue
			}
			n = 3 + n*(1+op>>5)
			for range n {
				c.plain = append(c.plain, c.plain[len(c.plain)-d])
			}
			if op%8 < 7 && d < 1<<16 {
				for ; n >= 3; n, at = n-258, at+258 {
					c.matches = append(c.matches, flate.Match{At: uint32(at), Length: uint16(min(n, 258)), Distance: uint16(d)})
				}
			}
		}
	}
	return c
}

func seeds(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x20abcdefghijklmnopqrstuvwxyz012345\x04\x10\x08\x00\x05\x20\x03\x00"))
	f.Add([]byte("\x01\xff\x00\xfa\x80\x01\xff\x01\x00\x04\xff\x00\x01"))
	f.Add([]byte("\xfa\xff\x05\xfc\xff\x00\x10\xfd\x40\x30\x02\x03\xff\x01\x02\x03\x04"))
	f.Add(append(noise(1, 2000), words(1, 3000)...))
}

func FuzzZstd(f *testing.F) {
	seeds(f)
	searching, plain := NewEncoder(Options{}), NewEncoder(Options{NoSearch: true})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := script(data)
		zstdLength(t, searching, c)
		zstdLength(t, plain, c)
	})
}

func FuzzLZ4(f *testing.F) {
	seeds(f)
	searching, plain := NewEncoder(Options{}), NewEncoder(Options{NoSearch: true})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := script(data)
		lz4Length(t, searching, c)
		lz4Length(t, plain, c)
	})
}
