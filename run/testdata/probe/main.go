// Command probe is the program in the image of the tests: it tells who and where it is.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	switch os.Args[1] {
	case "tell":
		groups, _ := os.Getgroups()
		slices.Sort(groups)
		dir, _ := os.Getwd()
		fmt.Println(os.Getuid(), os.Getgid(), groups, dir, os.Getenv("HOME"), os.Getenv("A"), os.Getpid(), strings.Join(os.Args[2:], ","))
	case "write":
		for _, name := range os.Args[2:] {
			if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
				fmt.Println(err)
			}
		}
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	case "signal":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("waiting")
		fmt.Println(<-c)
	}
}
