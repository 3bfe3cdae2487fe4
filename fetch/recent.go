package fetch

// recent keeps the decoded spans of the last flights, up to limit bytes and at least one, oldest out first.
type recent struct {
	limit, size int64
	spans       map[int][]byte
	order       []int
}

func (c *recent) get(i int) ([]byte, bool) {
	p, ok := c.spans[i]
	return p, ok
}

func (c *recent) put(i int, p []byte) {
	if c.spans == nil {
		c.spans = make(map[int][]byte)
	}
	if _, ok := c.spans[i]; ok {
		return
	}
	c.spans[i] = p
	c.order = append(c.order, i)
	c.size += int64(len(p))
	for c.size > c.limit && len(c.order) > 1 {
		c.size -= int64(len(c.spans[c.order[0]]))
		delete(c.spans, c.order[0])
		c.order = c.order[1:]
	}
}
