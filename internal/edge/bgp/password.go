package bgp

import (
	"fmt"

	"troupe/internal/secretfile"
)

// maxPassword is what the kernel takes for TCP MD5.
const maxPassword = 80

// password reads the password of a session.
func password(path string) (string, error) {
	if err := secretfile.Check(path); err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	word, err := secretfile.Line(path, "the password", maxPassword)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	return word, nil
}
