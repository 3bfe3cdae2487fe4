package ext4

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tree"
)

// placeContent finds room for the content of new files, in the order in which it lies in the blobs, and returns where everything is.
func (p *plan) placeContent() ([]disk.Extent, error) {
	var files []*newNode
	first := make(map[*newNode]tree.Extent) // the first piece that is no hole
	needed := make(map[*newNode][]span)     // blocks of the file
	total := int64(0)
	for i := range p.nodes {
		n := &p.nodes[i]
		if !n.node.IsRegular() {
			continue
		}
		runs, begin, err := contentBlocks(n.node)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", p.f.pathOf(n.node), err)
		}
		if len(runs) == 0 {
			continue
		}
		files = append(files, n)
		first[n], needed[n] = begin, runs
		for _, r := range runs {
			total += r.count
		}
	}
	slices.SortStableFunc(files, func(a, b *newNode) int {
		x, y := first[a], first[b]
		return cmp.Or(cmp.Compare(x.Blob, y.Blob), cmp.Compare(x.Offset, y.Offset))
	})
	free, err := p.f.allocate(total)
	if err != nil {
		return nil, err
	}
	var out extents
	for _, n := range files {
		c := contentCursor{n: n.node}
		for _, r := range needed[n] {
			for r.count > 0 {
				count := min(r.count, free[0].count)
				n.m.add(extent{logical: r.start, physical: free[0].start, count: count})
				if err := c.copy(&out, free[0].start*disk.BlockSize, r.start*disk.BlockSize, count*disk.BlockSize); err != nil {
					return nil, fmt.Errorf("%q: %w", p.f.pathOf(n.node), err)
				}
				r = span{r.start + count, r.count - count}
				if free[0] = (span{free[0].start + count, free[0].count - count}); free[0].count == 0 {
					free = free[1:]
				}
			}
		}
	}
	return out.sorted(), nil
}

// contentBlocks returns which blocks of a file have content, and the first piece of it.
func contentBlocks(n *tree.Node) ([]span, tree.Extent, error) {
	var runs []span
	var begin tree.Extent
	at := int64(0)
	for _, e := range n.Extents {
		if e.Length <= 0 || e.Offset < 0 || e.Length > n.Size-at {
			return nil, begin, unsupported("extent %+v of a file of %d bytes", e, n.Size)
		}
		start, end := at/disk.BlockSize, (at+e.Length+disk.BlockSize-1)/disk.BlockSize
		at += e.Length
		if e.Blob == tree.Hole {
			continue
		}
		k := len(runs)
		if k == 0 {
			begin = e
		}
		if k > 0 && runs[k-1].end() >= start {
			runs[k-1].count = end - runs[k-1].start
			continue
		}
		runs = append(runs, span{start, end - start})
	}
	if at != n.Size {
		return nil, begin, unsupported("file of %d bytes with extents of %d", n.Size, at)
	}
	if (n.Size+disk.BlockSize-1)/disk.BlockSize > maxFileBlocks {
		return nil, begin, unsupported("file of %d bytes", n.Size)
	}
	return runs, begin, nil
}

// contentCursor walks over the extents of a file.
type contentCursor struct {
	n     *tree.Node
	index int
	at    int64 // in the file, of the extent with that index
}

// copy says where length bytes at offset of the file come from, whole blocks, which lie at device of the disk.
func (c *contentCursor) copy(out *extents, device, offset, length int64) error {
	for end := offset + length; offset < end; {
		if offset >= c.n.Size {
			out.add(disk.Extent{Device: device, Length: end - offset, Blob: disk.Zero})
			return nil
		}
		for c.at+c.n.Extents[c.index].Length <= offset {
			c.at += c.n.Extents[c.index].Length
			c.index++
		}
		e := c.n.Extents[c.index]
		stop := c.at + e.Length
		if stop == c.n.Size {
			stop = (stop + disk.SectorSize - 1) / disk.SectorSize * disk.SectorSize
		}
		stop = min(stop, end)
		x := disk.Extent{Device: device, Source: e.Offset + offset - c.at, Length: stop - offset, Blob: e.Blob}
		if e.Blob == tree.Hole {
			x.Source = 0
		}
		if x.Length%disk.SectorSize != 0 || x.Source%disk.SectorSize != 0 {
			return unsupported("content %+v that does not begin and end with sectors", e)
		}
		out.add(x)
		device += x.Length
		offset = stop
	}
	return nil
}

// extents are pieces of the disk, neighbours joined.
type extents []disk.Extent

func (x *extents) add(e disk.Extent) {
	if k := len(*x); k > 0 {
		last := &(*x)[k-1]
		if last.Device+last.Length == e.Device && last.Blob == e.Blob && (e.Blob == disk.Zero || last.Source+last.Length == e.Source) {
			last.Length += e.Length
			return
		}
	}
	*x = append(*x, e)
}

// sorted brings pieces into the order of the device. They are out of order only where blocks were taken from the disk's beginning again.
func (x extents) sorted() []disk.Extent {
	order := func(a, b disk.Extent) int { return cmp.Compare(a.Device, b.Device) }
	if slices.IsSortedFunc(x, order) {
		return x
	}
	slices.SortFunc(x, order)
	var joined extents
	for _, e := range x {
		joined.add(e)
	}
	return joined
}
