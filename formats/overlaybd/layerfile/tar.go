package layerfile

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/lazuli-project/lazuli/blob"
)

// Sizes of tars in bytes.
const (
	tarBlock = 512
	// paxBegin is where a file lies that has a pax header.
	paxBegin = 3 * tarBlock
	// tarMax is what the size field of a header without a pax header holds.
	tarMax = 1<<33 - 1
)

// Fields of a tar header: where they begin, and their sizes.
const (
	tarMode, tarUID, tarGID   = 100, 108, 116 // 8
	tarSize, tarTime          = 124, 136      // 12
	tarSum                    = 148           // 8
	tarType                   = 156
	tarMagic                  = 257 // "ustar", 0, "00"
	tarOwner, tarGroup        = 265, 297
	tarMajor, tarMinor        = 329, 337 // 8
	tarSumSize, tarNumberSize = 8, 12
)

const magic = "ustar\x0000"

// putTar writes the tar's blocks before a payload of some size, which is behind them, to p, of 1536 or 512 bytes.
func putTar(p []byte, size int64) {
	clear(p)
	if len(p) == tarBlock {
		putShort(p, size)
		return
	}
	// As overlaybd-commit does it: numbers are padded with spaces, and the size stands only in the pax record.
	record := paxRecord(size)
	copy(p, "overlaybd.pax")
	copy(p[tarSize:], fmt.Sprintf("%11o ", len(record)))
	finishTar(p[:tarBlock], 'x', "%6o \x00")
	copy(p[tarBlock:], record)
	file := p[2*tarBlock:]
	copy(file, "overlaybd.commit")
	copy(file[tarMode:], fmt.Sprintf("%6o \x00", 0o100644))
	copy(file[tarUID:], fmt.Sprintf("%6o \x00", 0))
	copy(file[tarGID:], fmt.Sprintf("%6o \x00", 0))
	copy(file[tarSize:], fmt.Sprintf("%11o ", 0))
	copy(file[tarTime:], fmt.Sprintf("%11o ", 0))
	copy(file[tarOwner:], "root")
	copy(file[tarGroup:], "root")
	finishTar(file, '0', "%6o \x00")
}

// putShort writes the header of overlaybd's base layers, which are from Go's archive/tar.
func putShort(p []byte, size int64) {
	copy(p, "overlaybd.commit")
	for at, v := range map[int]int64{tarMode: 0o444, tarUID: 0, tarGID: 0, tarMajor: 0, tarMinor: 0} {
		copy(p[at:], fmt.Sprintf("%07o", v))
	}
	copy(p[tarSize:], fmt.Sprintf("%011o", size))
	copy(p[tarTime:], fmt.Sprintf("%011o", 0))
	finishTar(p, '0', "%06o\x00 ")
}

// finishTar writes type, magic, and the checksum in some format.
func finishTar(p []byte, kind byte, format string) {
	p[tarType] = kind
	copy(p[tarMagic:], magic)
	copy(p[tarSum:], fmt.Sprintf(format, checksum(p)))
}

// checksum is the sum of a header's bytes, with spaces in place of the checksum.
func checksum(p []byte) int64 {
	sum := int64(tarSumSize * ' ')
	for i, b := range p[:tarBlock] {
		if i < tarSum || i >= tarSum+tarSumSize {
			sum += int64(b)
		}
	}
	return sum
}

// paxRecord is a record with its own length before it.
func paxRecord(size int64) string {
	text := " size=" + strconv.FormatInt(size, 10) + "\n"
	n := len(text) + 1
	for len(strconv.Itoa(n))+len(text) != n {
		n++
	}
	return strconv.Itoa(n) + text
}

// isTar reports whether a block is a tar header.
func isTar(p []byte) bool {
	if len(p) < tarBlock || string(p[tarMagic:tarMagic+len(magic)]) != magic {
		return false
	}
	sum, err := number(p[tarSum : tarSum+tarSumSize])
	return err == nil && sum == checksum(p)
}

// parseTar returns where the file in a tar of size bytes lies that begins with p.
func parseTar(p []byte, size int64) (blob.Range, error) {
	at, header := int64(tarBlock), p
	pax := int64(0)
	if p[tarType] == 'x' {
		if at = paxBegin; len(p) < paxBegin {
			return blob.Range{}, fmt.Errorf("tar of %d bytes: %w", size, blob.ErrCorrupt)
		}
		n, err := number(p[tarSize : tarSize+tarNumberSize])
		if err != nil {
			return blob.Range{}, err
		}
		if n > tarBlock {
			return blob.Range{}, fmt.Errorf("pax header of %d bytes: %w", n, blob.ErrUnsupported)
		}
		if pax, err = paxSize(p[tarBlock:][:n]); err != nil {
			return blob.Range{}, err
		}
		header = p[2*tarBlock:]
		if !isTar(header) {
			return blob.Range{}, fmt.Errorf("no tar header behind the pax header: %w", blob.ErrCorrupt)
		}
	}
	if kind := header[tarType]; kind != '0' && kind != 0 {
		return blob.Range{}, fmt.Errorf("tar begins with an entry of type %q: %w", kind, blob.ErrUnsupported)
	}
	if pax == 0 {
		var err error
		if pax, err = number(header[tarSize : tarSize+tarNumberSize]); err != nil {
			return blob.Range{}, err
		}
	}
	if err := blob.CheckRange(at, pax, size); err != nil {
		return blob.Range{}, fmt.Errorf("file in tar: %w", err)
	}
	return blob.Range{Off: at, Len: pax}, nil
}

// paxSize returns the size in pax records, 0 for none.
func paxSize(p []byte) (int64, error) {
	size := int64(0)
	for len(p) > 0 {
		digits, _, _ := bytes.Cut(p, []byte{' '})
		n, err := strconv.Atoi(string(digits))
		if err != nil || n <= len(digits)+1 || n > len(p) || p[n-1] != '\n' {
			return 0, fmt.Errorf("pax header: %w", blob.ErrCorrupt)
		}
		if text, ok := bytes.CutPrefix(p[len(digits)+1:n-1], []byte("size=")); ok {
			if size, err = strconv.ParseInt(string(text), 10, 64); err != nil || size < 0 {
				return 0, fmt.Errorf("pax header: size %q: %w", text, blob.ErrCorrupt)
			}
		}
		p = p[n:]
	}
	return size, nil
}

// number decodes an octal field.
func number(p []byte) (int64, error) {
	text := bytes.Trim(p, " \x00")
	if len(text) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(text), 8, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("tar header: number %q: %w", text, blob.ErrCorrupt)
	}
	return n, nil
}
