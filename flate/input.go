package flate

import (
	"errors"
	"io"
)

const (
	inputMask = 1<<18 - 1
	// The decoder may step some bytes over what has been read, and looks at 8 from there on.
	inputSize = inputMask + 1 - inputPad
	// inputPad bytes of zeros are put behind the input's end, for the decoder's lookahead.
	inputPad = 64
)

// The largest fill, and the 8 bytes that stay before it, fit into the buffer.
const _ = uint(inputSize - 8 - lookahead)

// input is a buffer before a reader, in which the decoder looks ahead.
type input struct {
	src io.Reader
	// buf[pos:end] has been read and not been used. Behind end there are always inputPad bytes to look at.
	buf      *[inputMask + 1 + 8]byte
	pos, end int
	off      int64 // of buf[0] in src
	err      error // of src, io.EOF at its end; sticky
}

func newInput(src io.Reader) *input {
	return &input{src: src, buf: new([inputMask + 1 + 8]byte)}
}

// fill reads until want unused bytes are in the buffer, or src ends or fails. want is at most lookahead.
func (in *input) fill(want int) {
	if in.end-in.pos >= want || in.err != nil {
		return
	}
	// What the decoder holds in its bit buffer may be given back, so that much stays before pos.
	drop := max(0, in.pos-8)
	copy(in.buf[:], in.buf[drop:in.end])
	in.off += int64(drop)
	in.end -= drop
	in.pos -= drop
	empty := 0
	for in.end-in.pos < want && in.err == nil {
		var n int
		n, in.err = in.src.Read(in.buf[in.end:inputSize])
		in.end += n
		if empty++; n > 0 {
			empty = 0
		} else if empty == 100 && in.err == nil {
			in.err = io.ErrNoProgress
		}
	}
	clear(in.buf[in.end : in.end+inputPad])
}

// failed returns the error of the source, which is not its end.
func (in *input) failed() error {
	if in.err == nil || errors.Is(in.err, io.EOF) {
		return nil
	}
	return in.err
}

// Read hands out the bytes that have not been used.
func (in *input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if in.pos == in.end {
		if in.err != nil {
			return 0, in.err
		}
		if len(p) >= inputSize/2 {
			n, err := in.src.Read(p)
			in.err = err
			return n, err
		}
		in.fill(1)
		if in.pos == in.end {
			return 0, in.err
		}
	}
	n := copy(p, in.buf[in.pos:in.end])
	in.pos += n
	return n, nil
}
