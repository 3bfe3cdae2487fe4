// Command testrun runs the tests of Go modules, whose folders are its arguments, and prints what a person wants to know: failures
// with their output, a line for each package, which tests could not run here and why, and the sums.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// event is a line of "go test -json"; see "go doc test2json".
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
	ImportPath                    string
}

type summary struct {
	passed, failed int
	output         map[string][]string // by package and test
	skipped        map[string][]string // reason: tests
	failedIn       map[string]bool     // packages with a failed test
	broken         []string            // packages that did not build or failed outside of a test
	results        int
}

func newSummary() *summary {
	return &summary{output: make(map[string][]string), skipped: make(map[string][]string), failedIn: make(map[string]bool)}
}

func main() {
	s := newSummary()
	for _, dir := range os.Args[1:] {
		if err := s.run(dir); err != nil {
			fmt.Fprintln(os.Stderr, "testrun:", err)
			os.Exit(2)
		}
	}
	s.print(os.Stdout)
	if s.failed > 0 || len(s.broken) > 0 || s.results == 0 {
		os.Exit(1)
	}
}

// run tests one module.
func (s *summary) run(dir string) error {
	before := s.results
	cmd := exec.Command("go", "test", "-json", "-timeout", "20m", "./...")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := s.read(out, os.Stdout); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	s.ended(dir, before, cmd.Wait())
	return nil
}

// ended notes a module whose tests could not even begin; failed tests are noted already. before is how many packages had ended before.
func (s *summary) ended(dir string, before int, err error) {
	if s.results == before || err != nil && s.failed == 0 && len(s.broken) == 0 {
		s.broken = append(s.broken, "module "+dir)
	}
}

func (s *summary) read(r io.Reader, w io.Writer) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(w, lines.Text()) // not from a test: the go command itself
			continue
		}
		s.take(e, w)
	}
	return lines.Err()
}

func (s *summary) take(e event, w io.Writer) {
	if e.Package == "" {
		e.Package = e.ImportPath
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		s.output[key] = append(s.output[key], e.Output)
		return
	case "pass", "fail", "skip", "build-fail":
	default:
		return
	}
	out := s.output[key]
	delete(s.output, key)
	if e.Action == "build-fail" {
		s.broken = append(s.broken, e.Package)
		fmt.Fprint(w, strings.Join(out, ""))
		return
	}
	if e.Test == "" {
		s.results++
		if e.Action == "fail" && !s.failedIn[e.Package] && !slices.Contains(s.broken, e.Package) {
			s.broken = append(s.broken, e.Package)
			fmt.Fprint(w, strings.Join(out, ""))
		}
		fmt.Fprintf(w, "%-5s %6.1fs  %s\n", map[string]string{"pass": "ok", "fail": "FAIL", "skip": "-"}[e.Action], e.Elapsed, e.Package)
		return
	}
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		s.failedIn[e.Package] = true
		fmt.Fprint(w, strings.Join(out, ""))
	case "skip":
		reason := skipReason(out)
		s.skipped[reason] = append(s.skipped[reason], strings.TrimPrefix(e.Package, "github.com/lazuli-project/lazuli/")+"."+e.Test)
	}
}

// skipReason finds what the test said when it gave up.
func skipReason(out []string) string {
	for _, line := range out {
		line = strings.TrimSpace(line)
		if _, reason, ok := strings.Cut(line, ".go:"); ok {
			if _, text, ok := strings.Cut(reason, ": "); ok {
				return text
			}
		}
	}
	return "no reason given"
}

func (s *summary) print(w io.Writer) {
	count := 0
	reasons := make([]string, 0, len(s.skipped))
	for r, tests := range s.skipped {
		reasons = append(reasons, r)
		count += len(tests)
	}
	slices.Sort(reasons)
	for _, r := range reasons {
		fmt.Fprintf(w, "\nnot run here: %s\n", r)
		for _, t := range s.skipped[r] {
			fmt.Fprintf(w, "  %s\n", t)
		}
	}
	if len(s.broken) > 0 {
		fmt.Fprintf(w, "\npackages that failed as a whole: %s\n", strings.Join(s.broken, ", "))
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", s.passed, s.failed+len(s.broken), count)
}
