package tarfs

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

// piece is a part of a sparse file that is stored. The parts between pieces are zeros.
type piece struct{ off, size int64 }

// record takes one GNU.sparse record. Version 0.0 gives the pieces as repeated records, which only their order pairs.
func (s *sparseRecords) record(key, value string, pieces *[]string) error {
	s.seen = true
	switch key {
	case "major":
		s.major = value
	case "minor":
		s.minor = value
	case "name":
		s.name = value
		if strings.IndexByte(value, 0) >= 0 {
			return fmt.Errorf("%w: NUL byte in PAX record %sname", ErrName, gnuSparse)
		}
	case "size":
		s.size = value
	case "realsize":
		s.realSize = value
	case "map":
		s.pieces = value
	case "offset", "numbytes":
		if (len(*pieces)%2 == 0) != (key == "offset") || strings.Contains(value, ",") {
			return corrupt("PAX record %s%s in the wrong place", gnuSparse, key)
		}
		*pieces = append(*pieces, value)
	}
	return nil
}

// version tells how the records describe a sparse file: 0 for 0.0 and 0.1, 1 for 1.0, -1 for none or unknown.
func (s *sparseRecords) version() int {
	switch {
	case s.major == "0" && (s.minor == "0" || s.minor == "1"):
		return 0
	case s.major == "1" && s.minor == "0":
		return 1
	case s.major == "" && s.minor == "" && s.pieces != "":
		return 0
	}
	return -1
}

// paxSparse makes the entry a sparse one if its records say so. stored is the size of what is stored, with the map of
// version 1.0; the answer is the pieces and what is left of stored.
func (r *Reader) paxSparse(e *Entry, stored int64) (pieces []piece, left int64, err error) {
	s := &r.ext.sparse
	version := s.version()
	if version < 0 {
		return nil, stored, nil
	}
	size := s.size
	if size == "" {
		size = s.realSize
	}
	if size != "" {
		var ok bool
		if e.Size, ok = decimal(size); !ok {
			return nil, 0, corrupt("size %q of a sparse file", size)
		}
	}
	if version == 0 {
		pieces, err = sparseMap(strings.Split(s.pieces, ","))
		return pieces, stored, err
	}
	return r.sparseMap1(stored)
}

// sparseMap parses pairs of decimal numbers.
func sparseMap(numbers []string) ([]piece, error) {
	if len(numbers) == 1 && numbers[0] == "" {
		return []piece{}, nil
	}
	if len(numbers)%2 != 0 {
		return nil, corrupt("sparse map of %d numbers", len(numbers))
	}
	pieces := make([]piece, 0, len(numbers)/2)
	for i := 0; i < len(numbers); i += 2 {
		off, ok1 := decimal(numbers[i])
		size, ok2 := decimal(numbers[i+1])
		if !ok1 || !ok2 {
			return nil, corrupt("sparse map with %q,%q", numbers[i], numbers[i+1])
		}
		pieces = append(pieces, piece{off, size})
	}
	return pieces, nil
}

// sparseMap1 reads the map of version 1.0, which stands before the content: the number of pieces and then their offsets
// and sizes, each with a newline behind it, padded to a block.
func (r *Reader) sparseMap1(stored int64) ([]piece, int64, error) {
	var buf []byte
	lines, want := 0, 1
	for {
		if stored < blockSize || len(buf) >= MaxHeader {
			return nil, 0, corrupt("sparse map without an end")
		}
		var err error
		from := len(buf)
		if buf, err = r.s.read(buf, blockSize); err != nil {
			return nil, 0, err
		}
		stored -= blockSize
		lines += bytes.Count(buf[from:], []byte{'\n'})
		if want == 1 && lines > 0 {
			n, ok := decimal(string(buf[:bytes.IndexByte(buf, '\n')]))
			if !ok || n < 0 || n > MaxHeader {
				return nil, 0, corrupt("number of pieces in a sparse map")
			}
			want = 1 + 2*int(n)
		}
		if lines >= want {
			numbers := strings.SplitN(string(buf), "\n", want+1)
			pieces, err := sparseMap(numbers[1:want])
			return pieces, stored, err
		}
	}
}

// oldSparse reads the map of the old GNU format, which stands in the header and in blocks behind it.
func (r *Reader) oldSparse(e *Entry, h *header) ([]piece, error) {
	if !h.isGNU() {
		return nil, corrupt("sparse file without the magic of GNU tar")
	}
	size, ok := number(h[sparseRealSize : sparseRealSize+12])
	if !ok {
		return nil, corrupt("size of a sparse file")
	}
	e.Size = size
	pieces := make([]piece, 0, sparsePieces)
	add := func(p []byte, n int) error {
		for ; n > 0 && p[0] != 0; n-- {
			off, ok1 := number(p[:12])
			size, ok2 := number(p[12:pieceSize])
			if !ok1 || !ok2 {
				return corrupt("sparse map")
			}
			pieces = append(pieces, piece{off, size})
			p = p[pieceSize:]
		}
		return nil
	}
	if err := add(h[sparseOff:], sparsePieces); err != nil {
		return nil, err
	}
	for more := h[sparseMore] != 0; more; {
		block, err := r.s.next()
		if err != nil {
			return nil, r.s.cut()
		}
		if err := add(block[:], extPieces); err != nil {
			return nil, err
		}
		if len(pieces) > MaxHeader/pieceSize {
			return nil, fmt.Errorf("%w: sparse map", ErrTooLarge)
		}
		more = block[extMore] != 0
	}
	return pieces, nil
}

// layOut makes the extents of a sparse file whose pieces stand at off in the tar, one behind the other.
func layOut(pieces []piece, size, stored, off int64) ([]tree.Extent, error) {
	if size < 0 || size > MaxFile {
		return nil, fmt.Errorf("%w: file of %d bytes", ErrTooLarge, size)
	}
	var extents []tree.Extent
	add := func(x tree.Extent) {
		k := len(extents)
		switch {
		case x.Length == 0:
		case k > 0 && extents[k-1].Blob == x.Blob: // stored pieces follow each other
			extents[k-1].Length += x.Length
		default:
			extents = append(extents, x)
		}
	}
	end := int64(0)
	for _, p := range pieces {
		if p.off < end || p.size < 0 || p.off > size || p.size > size-p.off {
			return nil, corrupt("sparse map with %d bytes at %d of %d", p.size, p.off, size)
		}
		add(tree.Extent{Blob: tree.Hole, Length: p.off - end})
		add(tree.Extent{Offset: off, Length: p.size})
		end = p.off + p.size
		off += p.size
		stored -= p.size
	}
	if stored != 0 {
		return nil, corrupt("stored size of a sparse file differs from its map by %d", stored)
	}
	add(tree.Extent{Blob: tree.Hole, Length: size - end})
	return extents, nil
}
