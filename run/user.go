package run

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrUser means: the image has no such user or group.
var ErrUser = errors.New("no such user or group in the image")

// user is who a process runs as.
type user struct {
	uid, gid uint32
	groups   []uint32 // further groups, sorted
	home     string
}

// findUser returns the user that a configuration names: "", "USER" or "USER:GROUP", each a name or a number. passwd and group are the
// contents of the image's files.
func findUser(spec, passwd, group string) (user, error) {
	name, groupName, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	u := user{home: "/"}
	number, err := strconv.ParseUint(name, 10, 32)
	numeric := err == nil
	u.uid = uint32(number)
	found := false
	login := name
	for f := range records(passwd, 7) {
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil || f[0] != name && (!numeric || uint32(uid) != u.uid) {
			continue
		}
		found, login = true, f[0]
		u.uid, u.gid, u.home = uint32(uid), uint32(gid), f[5]
		break
	}
	if !found && !numeric {
		return u, fmt.Errorf("user %q: %w", name, ErrUser)
	}
	if u.home == "" {
		u.home = "/"
	}
	if hasGroup && groupName != "" {
		u.gid, err = findGroup(groupName, group)
		return u, err // a named group stands for all of them
	}
	if !found {
		return u, nil
	}
	for f := range records(group, 4) {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && slices.Contains(strings.Split(f[3], ","), login) && !slices.Contains(u.groups, uint32(gid)) {
			u.groups = append(u.groups, uint32(gid))
		}
	}
	slices.Sort(u.groups)
	return u, nil
}

func findGroup(name, group string) (uint32, error) {
	for f := range records(group, 4) {
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil && f[0] == name {
			return uint32(gid), nil
		}
	}
	gid, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("group %q: %w", name, ErrUser)
	}
	return uint32(gid), nil
}

// records gives the lines of a file that have n fields with colons between them, see passwd(5) and group(5).
func records(text string, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(text) {
			if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= n && !strings.HasPrefix(f[0], "#") {
				if !yield(f) {
					return
				}
			}
		}
	}
}
