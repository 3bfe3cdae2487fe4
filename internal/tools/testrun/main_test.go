package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	t.Parallel()
	const p = `"Package":"github.com/lazuli-project/lazuli/x"`
	for name, c := range map[string]struct {
		input        []string
		says, silent []string
		passed       int
		failed       int
		broken       int
	}{
		"all pass": {
			[]string{`{"Action":"run",` + p + `,"Test":"TestA"}`, `{"Action":"output",` + p + `,"Test":"TestA","Output":"noise\n"}`,
				`{"Action":"pass",` + p + `,"Test":"TestA","Elapsed":1}`, `{"Action":"pass",` + p + `,"Elapsed":1.25}`},
			[]string{"ok       1.2s  github.com/lazuli-project/lazuli/x", "1 passed, 0 failed, 0 skipped"}, []string{"noise"}, 1, 0, 0,
		},
		"a failure shows its output": {
			[]string{`{"Action":"output",` + p + `,"Test":"TestA","Output":"why it failed\n"}`, `{"Action":"fail",` + p + `,"Test":"TestA"}`,
				`{"Action":"pass",` + p + `,"Test":"TestB"}`, `{"Action":"fail",` + p + `}`},
			[]string{"why it failed", "FAIL ", "1 passed, 1 failed"}, []string{"failed as a whole"}, 1, 1, 0,
		},
		"a skip shows its reason": {
			[]string{`{"Action":"output",` + p + `,"Test":"TestA","Output":"    a_test.go:5: needs root: mounts\n"}`, `{"Action":"skip",` + p + `,"Test":"TestA"}`,
				`{"Action":"skip",` + p + `,"Test":"TestB"}`, `{"Action":"pass",` + p + `}`},
			[]string{"not run here: needs root: mounts\n  x.TestA", "not run here: no reason given\n  x.TestB", "0 passed, 0 failed, 2 skipped"}, nil, 0, 0, 0,
		},
		"what does not build": {
			[]string{`{"Action":"build-output","ImportPath":"github.com/lazuli-project/lazuli/x","Output":"x.go:1: syntax error\n"}`,
				`{"Action":"build-fail","ImportPath":"github.com/lazuli-project/lazuli/x"}`, `{"Action":"fail",` + p + `}`},
			[]string{"syntax error", "failed as a whole: github.com/lazuli-project/lazuli/x", "1 failed"}, nil, 0, 0, 1,
		},
		"what fails outside of a test": {
			[]string{`{"Action":"output",` + p + `,"Output":"panic: no\n"}`, `{"Action":"fail",` + p + `}`}, []string{"panic: no", "failed as a whole"}, nil, 0, 0, 1,
		},
		"the go command itself": {[]string{"go: no such thing"}, []string{"go: no such thing"}, nil, 0, 0, 0},
	} {
		s := newSummary()
		var out bytes.Buffer
		if err := s.read(strings.NewReader(strings.Join(c.input, "\n")), &out); err != nil {
			t.Fatal(err)
		}
		s.print(&out)
		if s.passed != c.passed || s.failed != c.failed || len(s.broken) != c.broken {
			t.Errorf("%s: %d passed, %d failed, %q", name, s.passed, s.failed, s.broken)
		}
		for _, text := range c.says {
			if !strings.Contains(out.String(), text) {
				t.Errorf("%s: no %q in\n%s", name, text, &out)
			}
		}
		for _, text := range c.silent {
			if strings.Contains(out.String(), text) {
				t.Errorf("%s: %q in\n%s", name, text, &out)
			}
		}
	}
}

// A package that breaks after another one's test failed is a broken package still.
func TestBrokenAfterFailure(t *testing.T) {
	t.Parallel()
	s := newSummary()
	input := `{"Action":"fail","Package":"a","Test":"TestA"}
{"Action":"fail","Package":"a"}
{"Action":"output","Package":"b","Output":"panic: no\n"}
{"Action":"fail","Package":"b"}`
	var out bytes.Buffer
	if err := s.read(strings.NewReader(input), &out); err != nil {
		t.Fatal(err)
	}
	if len(s.broken) != 1 || s.broken[0] != "b" || !strings.Contains(out.String(), "panic: no") {
		t.Errorf("%q\n%s", s.broken, &out)
	}
}

func TestModuleWithoutResults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		results int
		err     error
		want    int
	}{
		{"tests passed", 1, nil, 0},
		{"nothing ran", 0, errors.New("exit status 1"), 1},
		{"no packages", 0, nil, 1},
		{"ended early", 1, errors.New("exit status 2"), 1},
	} {
		s := newSummary()
		s.results = c.results
		if s.ended("x", 0, c.err); len(s.broken) != c.want {
			t.Errorf("%s: broken %q", c.name, s.broken)
		}
	}
}
