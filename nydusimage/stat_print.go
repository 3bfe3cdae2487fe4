package nydusimage

import (
	"fmt"
	"io"
	"strings"
)

// print prints the figures as nydus-image does.
func (s *Statistics) print(out io.Writer) error {
	var w strings.Builder
	if s.TargetEnabled {
		w.WriteString("Target Image Statistics:\n")
		s.Target.print(&w)
	}
	w.WriteString("\n\nBase Image Statistics:\n")
	s.Base.print(&w)
	if s.DedupEnabled {
		w.WriteString("\n\nChunk Deduplication Statistics:\nGlobal Dedup Thresh:\tRaw Chunks:\tDedup Chunks:\tComp Content Size:\tComp Base Size:\tComp Image Size:\tUncomp Content Size:\tUncomp Base Size\tUncomp Image Size\n")
		for i, l := range s.levels() {
			if l.dedup == 0 {
				break
			}
			fmt.Fprintf(&w, "%-24d", i+1)
			for _, v := range []uint64{l.raw, l.dedup, l.comp, l.compBase, l.compImage, l.plain, l.plainBase, l.plainImage} {
				fmt.Fprintf(&w, "0x%-14x", v)
			}
			w.WriteString("\n")
		}
	}
	_, err := io.WriteString(out, w.String())
	return err
}

func (f *Figures) print(w *strings.Builder) {
	fmt.Fprintf(w, `
Directories:            %d
Files:                  %d
Symlinks:               %d
Chunks:                 %d
File Size:              %d
Padding Size:           %d
Uncompressed Size:      %d
Compressed Size:        %d

File Size Bits:		File Count:
`, f.Dirs, f.Files, f.Symlinks, f.Chunks, f.FileSize, f.Padding, f.PlainSize, f.CompSize)
	for i, n := range f.FileSizes {
		fmt.Fprintf(w, "%d:\t\t\t%d\n", i, n)
	}
	w.WriteString("\nChunk Size Bits:\tChunk Count:\n")
	for i, n := range f.ChunkSizes {
		fmt.Fprintf(w, "%d:\t\t\t%d\n", 12+i, n)
	}
	w.WriteString("\n")
	for _, l := range []struct {
		name  string
		value uint64
	}{
		{"Raw Content Size", f.FileSize}, {"Comp Content Size", f.CompSize}, {"Raw Chunk Count", uint64(f.Chunks)},
		{"Dedup Comp Size", f.DedupCompSize}, {"Dedup Uncomp Size", f.DedupPlainSize}, {"Dedup Chunk Count", f.DedupChunks},
		{"Owned Comp Size", f.OwnCompSize}, {"Owned Uncomp Size", f.OwnPlainSize}, {"Owned Chunk Count", f.OwnChunks},
		{"Referenced Comp Size", f.RefCompSize}, {"Referenced Uncomp Size", f.RefPlainSize}, {"Referenced Chunk Count", f.RefChunks},
	} {
		fmt.Fprintf(w, "%s:\t%d\n", l.name, l.value)
	}
}
