package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lazuli-project/lazuli/internal/mysqltest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
)

// TestMySQLScripts runs the scripts of testdata/mysql, which have two empty databases, $DB and $OTHER, beside what those of
// testdata/script have.
func TestMySQLScripts(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "mysql"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			r, err := registrytest.New(registrytest.Options{})
			if err != nil {
				return err
			}
			e.Setenv("REGISTRY", r.Listen(cleaner{e, t}))
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, ".state"))
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, ".cache"))
			database := s.Database(t)
			s.Exec(t, "", "CREATE USER u"+database[4:]+" IDENTIFIED BY 'right'", "GRANT ALL ON "+database+".* TO u"+database[4:])
			e.Setenv("DB", "mysql:"+s.DSN(database))
			e.Setenv("WRONG", "mysql:"+s.UserDSN("u"+database[4:], "hush", database))
			e.Setenv("OTHER", "mysql:"+s.DSN(s.Database(t)))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"image": func(ts *testscript.TestScript, _ bool, args []string) { writeImage(t, ts, args) },
			"exits": exits,
		},
	})
}
