package record

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// likeOwn is true for rows of ours.
const likeOwn = ` LIKE '` + ownPrefix + `%'`

// Remove implements [Record]. Rows of overlaybd's own converter stay.
func (m *MySQL) Remove(ctx context.Context, dgst digest.Digest, place string) (int64, error) {
	if !m.own {
		return 0, m.wrap(fmt.Errorf("%w: lazuli_layers, lazuli_places", errTables))
	}
	var n int64
	err := m.transaction(ctx, listTimeout, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		switch {
		case dgst != "":
			n, err = m.removeDigest(ctx, tx, dgst.String())
		case place != "":
			n, err = m.removePlace(ctx, tx, strings.TrimSuffix(place, "/"))
		default:
			n, err = m.removeAll(ctx, tx)
		}
		if err == nil && m.manifests {
			_, err = tx.ExecContext(ctx, `DELETE FROM overlaybd_manifests WHERE src_digest`+likeOwn)
		}
		if err == nil {
			_, err = tx.ExecContext(ctx, `DELETE FROM lazuli_places WHERE digest NOT IN (SELECT digest FROM lazuli_layers)`)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

func (m *MySQL) removeAll(ctx context.Context, tx *sql.Tx) (int64, error) {
	if m.layers {
		if _, err := tx.ExecContext(ctx, `DELETE FROM overlaybd_layers WHERE chain_id`+likeOwn); err != nil {
			return 0, err
		}
	}
	res, err := tx.ExecContext(ctx, `DELETE FROM lazuli_layers`)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// removeDigest forgets the layers that were made of a source layer, or became a blob.
func (m *MySQL) removeDigest(ctx context.Context, tx *sql.Tx, dgst string) (int64, error) {
	ids, err := stringsOf(ctx, tx, `SELECT id FROM lazuli_layers WHERE source = ? OR digest = ? FOR UPDATE`, dgst, dgst)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	var hosts []string
	if m.layers {
		if hosts, err = stringsOf(ctx, tx, `SELECT DISTINCT host FROM overlaybd_layers`); err != nil {
			return 0, err
		}
	}
	for _, id := range ids {
		for _, host := range hosts { // there is no index by chain_id alone
			if _, err := tx.ExecContext(ctx, `DELETE FROM overlaybd_layers WHERE host = ? AND chain_id = ?`, host, id); err != nil {
				return 0, err
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM lazuli_layers WHERE id = ?`, id); err != nil {
			return 0, err
		}
	}
	return int64(len(ids)), nil
}

// removePlace forgets a place with all that is below it, and the layers whose blobs were there only.
func (m *MySQL) removePlace(ctx context.Context, tx *sql.Tx, place string) (int64, error) {
	below := []byte(place + "/")
	ids, err := stringsOf(ctx, tx, `SELECT DISTINCT l.id FROM lazuli_layers AS l JOIN lazuli_places AS p ON p.digest = l.digest
		WHERE p.place = ? OR LEFT(p.place, ?) = ?`, []byte(place), len(below), below)
	if err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM lazuli_places WHERE place = ? OR LEFT(place, ?) = ?`, []byte(place), len(below), below); err != nil {
		return 0, err
	}
	if m.layers {
		host, repo, _ := strings.Cut(place, "/")
		const there = ` FROM overlaybd_layers WHERE chain_id` + likeOwn + ` AND host = ? AND (? = '' OR repo = ? OR LEFT(repo, ?) = ?)`
		args := []any{host, repo, repo, len(repo) + 1, repo + "/"}
		more, err := stringsOf(ctx, tx, `SELECT DISTINCT chain_id`+there, args...)
		if err != nil {
			return 0, err
		}
		ids = append(ids, more...)
		if _, err := tx.ExecContext(ctx, `DELETE`+there, args...); err != nil {
			return 0, err
		}
	}
	var n int64
	for _, id := range ids {
		gone, err := m.removeLost(ctx, tx, id)
		if err != nil {
			return 0, err
		}
		n += gone
	}
	return n, nil
}

// removeLost forgets a layer of whose blob no place is known, and returns how many that were.
func (m *MySQL) removeLost(ctx context.Context, tx *sql.Tx, id string) (int64, error) {
	digests, err := stringsOf(ctx, tx, `SELECT digest FROM lazuli_layers WHERE id = ?`, id)
	if err != nil || len(digests) == 0 {
		return 0, err
	}
	if lost, err := isNowhere(ctx, tx, id, digests[0], m.layers); err != nil || !lost {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM lazuli_layers WHERE id = ?`, id)
	return 1, err
}

// stringsOf returns the only column of a query.
func stringsOf(ctx context.Context, q querier, query string, args ...any) ([]string, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
