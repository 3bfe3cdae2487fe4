// Package formatstest is the test that every image format passes: its writer and its reader are driven with generated and
// with odd layers, and what is read must equal the layers merged by package tarfs, down to the last byte and nanosecond.
//
//	func TestConformance(t *testing.T) {
//		formatstest.Run(t, formatstest.Format{
//			Writer: func(tb testing.TB, cpu *formats.CPU) formats.Writer { return newWriter(tb, Options{CPU: cpu}) },
//			Reader: Reader{},
//			Chunk:  4096,
//		})
//	}
//
// Beside round trips it demands of a format: the same bytes for the same input, however its content is cut and on any number
// of cores; that a reopened layer is as good as a new one; that a writer passes on the errors of its sink and leaves no
// goroutine behind; that damage to any stored byte gives the right content or an error of a known class, never a panic,
// never other content, and never more memory than [Format.MaxAlloc].
package formatstest
