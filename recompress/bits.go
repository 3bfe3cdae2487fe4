package recompress

import "encoding/binary"

var le = binary.LittleEndian

// bitState writes a stream that is read from its end (RFC 8878, 4.1). It is a value of few words, so that it stays in registers.
type bitState struct {
	acc uint64
	n   uint
	at  int // in the buffer
}

// add appends the n bits of v. Between two flushes there is room for 56 bits.
func (w bitState) add(v uint64, n uint) bitState {
	w.acc |= v << (w.n & 63)
	w.n += n
	return w
}

// flush stores whole bytes. The buffer must have room for 8.
func (w bitState) flush(buf []byte) bitState {
	le.PutUint64(buf[w.at:], w.acc)
	w.at += int(w.n >> 3)
	w.acc >>= w.n & 56
	w.n &= 7
	return w
}

// close ends the stream with a set bit and returns it with what stands before it in the buffer.
func (w bitState) close(buf []byte) []byte {
	w = w.add(1, 1).flush(buf)
	if w.n > 0 {
		w.at++
	}
	return buf[:w.at]
}
