package overlaybdtools

import (
	"fmt"
	"strings"
)

// parseUUID checks the text of a UUID and returns it as layers have it.
func parseUUID(text string) (string, error) {
	for i, c := range []byte(text) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if hyphen != (c == '-') || !hyphen && !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)) {
			return "", fmt.Errorf("%q is no UUID", text)
		}
	}
	if text != "" && len(text) != 36 {
		return "", fmt.Errorf("%q is no UUID", text)
	}
	return strings.ToUpper(text), nil
}
