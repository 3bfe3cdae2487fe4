package recompress

// appendLZ4 appends an LZ4 block (lz4_Block_format.md) unless it would not be shorter than p. There is room for len(p) bytes.
func (s *state) appendLZ4(dst, p []byte) ([]byte, bool) {
	begin := len(dst)
	out := dst[begin : begin+len(p)]
	n, from := 0, 0 // from: what is not yet in the block
	for at, limit := 0, 0; limit < len(p); at = limit {
		limit = min(at+blockSize, len(p))
		for _, q := range s.parser.parse(limit) {
			at += int(q.literals)
			literals, length := at-from, int(q.length)-lz4Format.minLength
			if len(out)-n < literals+literals/255+length/255+lz4Margin {
				return dst, false
			}
			token := n
			n = putLiterals(out, n, p, from, literals)
			out[n], out[n+1] = uint8(q.distance), uint8(q.distance>>8)
			n += 2
			out[token] |= uint8(min(length, 15))
			if length >= 15 {
				n = putLength(out, n, length-15)
			}
			at += int(q.length)
			from = at
		}
	}
	literals := len(p) - from
	if len(out)-n < literals+literals/255+lz4Margin {
		return dst, false
	}
	n = putLiterals(out, n, p, from, literals)
	return dst[:begin+n], true
}

// lz4Margin is more than a sequence takes beside literals and long lengths: token, distance, the last bytes of both lengths, and
// what literals are copied in excess.
const lz4Margin = 5 + copyAhead

// putLiterals writes a token without the match's length, and literals. It returns where they end.
func putLiterals(out []byte, n int, p []byte, from, literals int) int {
	out[n] = uint8(min(literals, 15)) << 4
	n++
	if literals >= 15 {
		n = putLength(out, n, literals-15)
	} else if len(p)-from >= copyAhead {
		copy(out[n:n+copyAhead], p[from:from+copyAhead])
		return n + literals
	}
	return n + copy(out[n:], p[from:from+literals])
}

// putLength writes what of a length is not in the token.
func putLength(out []byte, n, length int) int {
	for ; length >= 255; length -= 255 {
		out[n] = 255
		n++
	}
	out[n] = uint8(length)
	return n + 1
}
