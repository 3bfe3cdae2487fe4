package nydusblob

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Window is a window of a context that is mostly zeros, without these. A table of a large layer has thousands.
type Window struct {
	size   int
	packed []byte // pairs of a run of zeros and other bytes: both lengths as varints, then the bytes
}

// minZeros is the length of a run of zeros that is worth leaving out.
const minZeros = 4

// PackWindow packs a window.
func PackWindow(p []byte) Window {
	w := Window{size: len(p)}
	for at := 0; at < len(p); {
		begin := at
		for begin+8 <= len(p) && binary.LittleEndian.Uint64(p[begin:]) == 0 {
			begin += 8
		}
		for begin < len(p) && p[begin] == 0 {
			begin++
		}
		end := begin
		for end+minZeros <= len(p) && binary.LittleEndian.Uint32(p[end:]) != 0 {
			end++
		}
		if end+minZeros > len(p) {
			end = len(p)
		}
		w.packed = binary.AppendUvarint(w.packed, uint64(begin-at))
		w.packed = binary.AppendUvarint(w.packed, uint64(end-begin))
		w.packed = append(w.packed, p[begin:end]...)
		at = end
	}
	w.packed = bytes.Clone(w.packed) // without spare room
	return w
}

// AppendTo appends the window.
func (w Window) AppendTo(dst []byte) []byte {
	at := len(dst)
	dst = slices.Grow(dst, w.size)[:at+w.size]
	out := dst[at:]
	clear(out)
	for p := w.packed; len(p) > 0; {
		zeros, n := binary.Uvarint(p)
		p = p[n:]
		count, n := binary.Uvarint(p)
		p = p[n:]
		copy(out[zeros:], p[:count])
		out, p = out[zeros+count:], p[count:]
	}
	return dst
}
