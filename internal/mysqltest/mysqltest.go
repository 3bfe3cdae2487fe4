// Package mysqltest starts a MySQL or MariaDB server for tests, with its data in a temporary directory, and never the system's.
package mysqltest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
)

// Server is a running server, on a loopback port, with a user root who needs no password.
type Server struct {
	// Addr is HOST:PORT.
	Addr string

	data string
	tmp  string // servers remove each other's temporary files
	cmd  *exec.Cmd
	done chan struct{} // closed when the server has ended
	log  string
}

// databases counts what was made, as long as the process is there.
var databases atomic.Int32

// startTimeout is how long a server may take to answer on a busy machine.
const startTimeout = 90 * time.Second

// addrEnv names a running server to test with, HOST:PORT, with a user root who needs no password: one of another version.
const addrEnv = "LAZULI_TEST_MYSQL"

// Start starts a server that ends with the test, unless there is one to test with. The test is skipped with the reason where mariadbd
// is not installed.
func Start(tb testing.TB) *Server {
	tb.Helper()
	if addr := os.Getenv(addrEnv); addr != "" {
		return &Server{Addr: addr}
	}
	return StartOwn(tb)
}

// StartOwn starts a server that may be killed.
func StartOwn(tb testing.TB) *Server {
	tb.Helper()
	mariadbd, err := exec.LookPath("mariadbd")
	if err != nil {
		mariadbd = "/usr/sbin/mariadbd"
		if _, err := os.Stat(mariadbd); err != nil {
			tb.Skip("mariadbd is not installed (Debian: mariadb-server-core, mariadb-client-core)")
		}
	}
	s := &Server{data: filepath.Join(tb.TempDir(), "data"), tmp: tb.TempDir()}
	s.log = s.data + ".log"
	install := exec.Command("mariadb-install-db", append(asRoot(), "--no-defaults", "--datadir="+s.data, "--auth-root-authentication-method=normal", "--skip-test-db")...)
	install.Env = s.env()
	if out, err := install.CombinedOutput(); err != nil {
		tb.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	tb.Cleanup(s.Kill)
	// A port that is free now may be taken by another test before the server has it.
	for range 3 {
		if err = s.Run(mariadbd); err == nil {
			return s
		}
	}
	log, _ := os.ReadFile(s.log)
	tb.Fatalf("mariadbd: %v\n%s", err, log)
	return nil
}

func (s *Server) env() []string { return append(os.Environ(), "TMPDIR="+s.tmp) }

// asRoot is needed by servers that root starts.
func asRoot() []string {
	if u, err := user.Current(); err == nil && u.Uid == "0" {
		return []string{"--user=root"}
	}
	return nil
}

// Run starts the server on its data.
func (s *Server) Run(mariadbd string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	out, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer out.Close() // the server has its own
	s.cmd = exec.Command(mariadbd, append([]string{"--no-defaults", "--datadir=" + s.data, "--socket=" + filepath.Join(s.data, "s"),
		"--pid-file=" + filepath.Join(s.data, "pid"), "--bind-address=127.0.0.1", "--skip-networking=0", "--port=" + strconv.Itoa(port),
		"--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=32M", "--skip-log-bin", "--skip-name-resolve"}, asRoot()...)...)
	s.cmd.Env = s.env()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // killed
		close(done)
	}(s.cmd, s.done)
	return s.wait()
}

// wait returns once the server answers.
func (s *Server) wait() error {
	db, err := sql.Open("mysql", s.dsn("root", "", ""))
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if log, err := os.ReadFile(s.log); err == nil && bytes.Contains(log, []byte("ready for connections")) && db.PingContext(ctx) == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			return errors.New("the server ended")
		case <-ctx.Done():
			s.Kill()
			return ctx.Err()
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Kill ends the server at once, as a crash does.
func (s *Server) Kill() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	<-s.done
}

// Restart starts a killed server on its data again, at another port.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	if err := s.Run(s.cmd.Path); err != nil {
		tb.Fatal(err)
	}
}

func (s *Server) dsn(name, password, database string) string {
	if password != "" {
		password = ":" + password
	}
	return fmt.Sprintf("%s%s@tcp(%s)/%s", name, password, s.Addr, database)
}

// DSN returns what root opens a database with.
func (s *Server) DSN(database string) string { return s.dsn("root", "", database) }

// UserDSN returns what a user opens a database with.
func (s *Server) UserDSN(name, password, database string) string {
	return s.dsn(name, password, database)
}

// Database makes an empty database and returns its name.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("test%d_%d", os.Getpid(), databases.Add(1))
	s.Exec(tb, "", "CREATE DATABASE "+name)
	tb.Cleanup(func() {
		if db, err := sql.Open("mysql", s.DSN("")); err == nil {
			_, _ = db.Exec("DROP DATABASE " + name) // for a server that stays
			_ = db.Close()
		}
	})
	return name
}

// Open opens a database as root.
func (s *Server) Open(tb testing.TB, database string) *sql.DB {
	tb.Helper()
	db, err := sql.Open("mysql", s.DSN(database))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

// Exec runs statements as root.
func (s *Server) Exec(tb testing.TB, database string, statements ...string) {
	tb.Helper()
	db, err := sql.Open("mysql", s.DSN(database))
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	for _, q := range statements {
		if _, err := db.ExecContext(tb.Context(), q); err != nil {
			tb.Fatalf("%s: %v", q, err)
		}
	}
}
