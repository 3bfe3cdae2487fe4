package main

import (
	"os"
	"path/filepath"
)

// stateFile returns the path of a file in the user's state directory: /var/lib/lazuli for root, else that of XDG.
func stateFile(name string) (string, bool) {
	if os.Geteuid() == 0 && os.Getenv("XDG_STATE_HOME") == "" {
		return filepath.Join("/var/lib/lazuli", name), true
	}
	return userDir("XDG_STATE_HOME", ".local/state", name)
}

// cacheDir returns the directory of the user's cache.
func cacheDir() (string, bool) {
	if os.Geteuid() == 0 && os.Getenv("XDG_CACHE_HOME") == "" {
		return "/var/lib/lazuli/cache", true
	}
	return userDir("XDG_CACHE_HOME", ".cache", "")
}

func userDir(variable, fallback, name string) (string, bool) {
	if d := os.Getenv(variable); d != "" {
		return filepath.Join(d, "lazuli", name), true
	}
	if d, err := os.UserHomeDir(); err == nil {
		return filepath.Join(d, fallback, "lazuli", name), true
	}
	return "", false
}
