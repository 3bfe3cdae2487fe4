package record

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/store"
)

// ErrDSN means that the name of a database cannot be understood. The error does not repeat it: it may hold a password.
var ErrDSN = errors.New("invalid name of a database, USER:PASSWORD@tcp(HOST:PORT)/DATABASE is expected")

// errTables means that tables are missing and may not be created.
var errTables = errors.New("tables are missing, and the user may not create them")

// MySQL is an open record in a MySQL or MariaDB database, which may be overlaybd's own: it has the tables of that, and two beside
// them. It may be used concurrently, also by several processes.
//
// Rows of overlaybd's tables whose key begins with [ownPrefix] are ours. Rows of overlaybd's own converter are read to be listed and
// exported only: they do not say which options a layer was made with, so ours could be put on a file system that it does not fit.
// They are never changed or removed, and that converter finds nothing of ours under its keys.
//
// A server that does not answer fails one call: for a while after that, calls fail at once.
type MySQL struct {
	db   *sql.DB
	name string // without the password
	// own, layers and manifests say which tables there are: ours, and overlaybd's.
	own, layers, manifests bool

	mu        sync.Mutex // guards downUntil
	downUntil time.Time
}

var (
	_ Record             = (*MySQL)(nil)
	_ convert.NearRecord = (*MySQL)(nil)
)

const (
	dialTimeout = 5 * time.Second
	readTimeout = 15 * time.Second // also of writes
	lockTimeout = "5"              // seconds
	callTimeout = 20 * time.Second // of a call of the converter, with all its tries
	listTimeout = 5 * time.Minute  // of a call that goes through everything
	restTime    = 30 * time.Second // how long calls fail at once after one got no answer
)

// OpenMySQL opens the record in the database that a DSN of github.com/go-sql-driver/mysql names. Tables that are missing are created
// where that is allowed. Errors do not show the password; they are [store.ErrDenied] and [store.ErrNetwork] where that is the reason.
func OpenMySQL(ctx context.Context, dsn string) (*MySQL, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil || cfg.DBName == "" {
		return nil, fmt.Errorf("record: %w", ErrDSN)
	}
	// What fails is returned, and not printed as well.
	cfg.Logger = &mysql.NopLogger{}
	cfg.AllowAllFiles, cfg.MultiStatements = false, false
	for _, t := range []struct {
		set *time.Duration
		to  time.Duration
	}{{&cfg.Timeout, dialTimeout}, {&cfg.ReadTimeout, readTimeout}, {&cfg.WriteTimeout, readTimeout}} {
		if *t.set == 0 {
			*t.set = t.to
		}
	}
	if cfg.Params == nil {
		cfg.Params = map[string]string{}
	}
	// Who does not wait for locks longer than for answers takes them for what they are. What does not fit is an error, and not cut.
	cfg.Params["innodb_lock_wait_timeout"] = lockTimeout
	cfg.Params["sql_mode"] = "'STRICT_ALL_TABLES'"
	name := fmt.Sprintf("mysql:%s@%s(%s)/%s", cfg.User, cfg.Net, cfg.Addr, cfg.DBName)
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", name, ErrDSN)
	}
	m := &MySQL{db: sql.OpenDB(connector), name: name}
	m.db.SetMaxOpenConns(4)
	m.db.SetConnMaxLifetime(3 * time.Minute) // servers and what lies between close idle connections
	if err := m.prepare(ctx); err != nil {
		return nil, errors.Join(m.wrap(err), m.db.Close())
	}
	return m, nil
}

// wrap says which database an error is of, and gives it its class.
func (m *MySQL) wrap(err error) error {
	var e *mysql.MySQLError
	switch {
	case err == nil:
		return nil
	case isLost(err):
		return fmt.Errorf("record %s: %w: %w", m.name, store.ErrNetwork, err)
	case errors.As(err, &e) && isDenied(e):
		return fmt.Errorf("record %s: %w: %w", m.name, store.ErrDenied, err)
	}
	return fmt.Errorf("record %s: %w", m.name, err)
}

// Numbers of errors, which MySQL and MariaDB share.
const (
	erDatabaseDenied  = 1044
	erAccessDenied    = 1045
	erShutdown        = 1053
	erTableDenied     = 1142
	erNoSuchTable     = 1146
	erLockWaitTimeout = 1205
	erDeadlock        = 1213
	erColumnDenied    = 1143
	erAccessDeniedSSL = 1698
	erConnectionKill  = 1927 // of MariaDB
)

func isDenied(e *mysql.MySQLError) bool {
	switch e.Number {
	case erDatabaseDenied, erAccessDenied, erTableDenied, erColumnDenied, erAccessDeniedSSL:
		return true
	}
	return false
}

// isLost reports whether an error is of the connection, and not an answer.
func isLost(err error) bool {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number == erShutdown || e.Number == erConnectionKill
	}
	var network interface{ Timeout() bool } // of package net, and of a context's deadline
	return errors.As(err, &network) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, sql.ErrConnDone)
}

// isClash reports whether others were in the way, so that it may work the next time.
func isClash(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && (e.Number == erLockWaitTimeout || e.Number == erDeadlock)
}

// maxTries bounds how often a call is tried that others were in the way of.
const maxTries = 6

// errResting means that the server did not answer a while ago.
var errResting = errors.New("the database did not answer before")

// do runs fn until nobody is in its way, for a limited time.
func (m *MySQL) do(ctx context.Context, limit time.Duration, fn func(ctx context.Context) error) error {
	m.mu.Lock()
	resting := time.Now().Before(m.downUntil)
	m.mu.Unlock()
	if resting {
		return m.wrap(errResting)
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := fn(bounded)
	for try := 1; try < maxTries && isClash(err) && pause(bounded); try++ {
		err = fn(bounded)
	}
	if err != nil && ctx.Err() == nil && isLost(err) {
		m.mu.Lock()
		m.downUntil = time.Now().Add(restTime)
		m.mu.Unlock()
	}
	return m.wrap(err)
}

// transaction runs fn in a transaction, again if others were in its way.
func (m *MySQL) transaction(ctx context.Context, limit time.Duration, fn func(ctx context.Context, tx *sql.Tx) error) error {
	return m.do(ctx, limit, func(ctx context.Context) error {
		tx, err := m.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := fn(ctx, tx); err != nil {
			_ = tx.Rollback() // fails where the connection is lost, which rolls back as well
			return err
		}
		return tx.Commit()
	})
}

// Close closes the connections.
func (m *MySQL) Close() error { return m.db.Close() }

// ownPrefix begins what stands for a chain ID or a source's digest in rows of ours. No digest begins like this.
const ownPrefix = "lazuli:"

// ownID returns what stands in a row of ours for the parts of a key: a hash that no other parts have.
func ownID(kind string, parts ...string) string {
	h := sha256.New()
	for _, p := range append([]string{"1", kind}, parts...) {
		fmt.Fprintf(h, "%d:%s,", len(p), p)
	}
	return ownPrefix + hex.EncodeToString(h.Sum(nil))
}

// layerID returns a layer's chain_id: for those of overlaybd's own converter it is the chain ID.
func layerID(k convert.Key) string {
	if isForeign(k) {
		return k.Chain.String()
	}
	return ownID("layer", k.Source.String(), k.Format, k.Writer, k.Below.String(), k.Chain.String())
}

// manifestID returns an image's src_digest.
func manifestID(k convert.ManifestKey) string {
	return ownID("manifest", k.Source.String(), k.Format, k.Writer)
}

// maxColumn is how long a host, a repository and a media type may be.
const maxColumn = 255

// repository returns the host and the repository of a place; false for other places, and for what does not fit into a row.
func repository(place string) (host, repo string, ok bool) {
	ref, err := store.Parse(place)
	if err != nil || ref.Transport != store.Registry || ref.Host+"/"+ref.Repo != place || len(ref.Host) > maxColumn || len(ref.Repo) > maxColumn {
		return "", "", false
	}
	return ref.Host, ref.Repo, true
}
