package code

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"troupe/internal/fault"
)

// This file keeps the content of files, each once, named by its SHA-256.

// snapshots is the folder of blobs and versions; DESIGN.md draws it.
type snapshots struct {
	dir string

	// building is held for reading from the first add of a scan until its version
	// has linked every blob; collection of garbage holds it for writing.
	building sync.RWMutex
}

const (
	blobsDir    = "blobs"
	versionsDir = "versions"
	tmpDir      = "tmp"
	bootFile    = "boot"
)

// openSnapshots makes the folder ready. What a crashed build left is removed;
// after a crash of the machine, or damage, everything is but what was deployed, because nothing
// else here is fsynced and making it again takes seconds.
func openSnapshots(dir string, group int, log *slog.Logger) (*snapshots, error) {
	mode := fs.FileMode(0o755)
	if group != 0 {
		mode = 0o750
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return nil, fmt.Errorf("creating the folder of versions: %w", err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		return nil, fmt.Errorf("opening the folder of versions to workers: %w", err)
	}
	if group != 0 {
		if err := os.Chown(dir, -1, group); err != nil {
			return nil, fmt.Errorf("giving the folder of versions to group %d: %w", group, err)
		}
	}

	stale := []string{tmpDir}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's boot id: %w", err)
	}
	s := &snapshots{dir: dir}
	var whole []salvaged
	last, err := os.ReadFile(filepath.Join(dir, bootFile))
	crashed := err != nil || !bytes.Equal(last, boot)
	damaged := ""
	if !crashed {
		damaged = damagedBlob(filepath.Join(dir, blobsDir))
	}
	if damaged != "" {
		log.Warn("a file of a code version is damaged: versions are made again from the environments, and deployed ones that have it fetched again", slog.String("file", damaged))
	}
	if crashed || damaged != "" {
		if whole, err = s.salvage(); err != nil {
			return nil, err
		}
		stale = append(stale, versionsDir)
		if len(whole) == 0 {
			stale = append(stale, blobsDir)
		}
	}
	for _, name := range stale {
		if err := removeTree(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{tmpDir, blobsDir, versionsDir} {
		if err := makeDir(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, bootFile), boot, 0o644); err != nil {
		return nil, fmt.Errorf("noting the boot id: %w", err)
	}
	return s, s.rebuild(whole)
}

// damagedBlob returns a blob whose content is not what its name says, or that cannot be read; "" when all are whole. Workers and agents
// get what is in it, so this is looked at once a start; the files of a large site are read in about a second.
func damagedBlob(root string) (damaged string) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		name := filepath.Base(filepath.Dir(path)) + strings.TrimSuffix(d.Name(), "x")
		if hash(h.Sum(nil)).String() != name {
			damaged = path
			return fs.SkipAll
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return root + ": " + err.Error()
	}
	return damaged
}

// makeDir creates a folder that everybody may read, whatever the umask.
func makeDir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		return fmt.Errorf("opening %s to workers: %w", path, err)
	}
	return nil
}

func removeTree(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	return nil
}

func (s *snapshots) tmp() string {
	return filepath.Join(s.dir, tmpDir, strings.ToLower(rand.Text()))
}

// blob is the path of a node's content. Executable copies are blobs of their
// own, since hard links share their mode.
func (s *snapshots) blob(sum hash, executable bool) string {
	name := sum.String()
	if executable {
		return filepath.Join(s.dir, blobsDir, name[:2], name[2:]+"x")
	}
	return filepath.Join(s.dir, blobsDir, name[:2], name[2:])
}

// inMemory is the size up to which a file is hashed before it is written, so
// that known content costs no write.
const inMemory = 1 << 20

// add copies the rest of f into the store, unless it is there.
func (s *snapshots) add(f *os.File, executable bool) (hash, error) {
	head, err := io.ReadAll(io.LimitReader(f, inMemory))
	if err != nil {
		return hash{}, fmt.Errorf("reading: %w", err)
	}
	if len(head) < inMemory {
		sum := hash(sha256.Sum256(head))
		if _, err := os.Lstat(s.blob(sum, executable)); err == nil {
			return sum, nil
		}
		return s.write(bytes.NewReader(head), executable)
	}
	return s.write(io.MultiReader(bytes.NewReader(head), f), executable)
}

// write stores what r gives. The blob appears whole or not at all.
func (s *snapshots) write(r io.Reader, executable bool) (sum hash, err error) {
	name := s.tmp()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return hash{}, fmt.Errorf("creating a blob: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()

	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), r); err != nil {
		return hash{}, fmt.Errorf("writing a blob: %w", err)
	}
	mode := fs.FileMode(0o444)
	if executable {
		mode = 0o555
	}
	if err := f.Chmod(mode); err != nil {
		return hash{}, fmt.Errorf("sealing a blob: %w", err)
	}
	sum = hash(h.Sum(nil))
	blob := s.blob(sum, executable)
	err = os.Rename(name, blob)
	if errors.Is(err, fs.ErrNotExist) { // the first blob of its folder
		if err := makeDir(filepath.Dir(blob)); err != nil {
			return hash{}, err
		}
		err = os.Rename(name, blob)
	}
	if err != nil {
		return hash{}, fmt.Errorf("naming a blob: %w", err)
	}
	return sum, nil
}

// link puts a blob at path. File systems bound the number of links of a file; a
// blob that has reached the bound is replaced by a new copy.
func (s *snapshots) link(n *node, path string) error {
	blob := s.blob(n.sum, n.executable())
	err := os.Link(blob, path)
	if errors.Is(err, unix.EMLINK) {
		if err := s.recopy(n, blob); err != nil {
			return err
		}
		err = os.Link(blob, path)
	}
	if err != nil {
		return fmt.Errorf("linking a blob: %w", err)
	}
	return nil
}

func (s *snapshots) recopy(n *node, blob string) error {
	f, err := os.Open(blob)
	if err != nil {
		return fmt.Errorf("opening a blob: %w", err)
	}
	defer f.Close()
	if _, err := s.write(f, n.executable()); err != nil {
		return fmt.Errorf("copying a blob with too many links: %w", err)
	}
	return nil
}

// open opens the content of a file. It exists as long as a version has it.
func (s *snapshots) open(n *node) (*os.File, error) {
	f, err := os.Open(s.blob(n.sum, n.executable()))
	if err != nil {
		return nil, fmt.Errorf("opening a blob: %w", err)
	}
	return f, nil
}

// read returns the whole content of a small file.
func (s *snapshots) read(n *node, limit int64) ([]byte, error) {
	f, err := s.open(n)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading a blob: %w", err)
	}
	if int64(len(text)) > limit {
		return nil, fault.New(fault.Failed, "file is larger than %d bytes", limit)
	}
	return text, nil
}

// collect removes blobs that no version links.
func (s *snapshots) collect() error {
	s.building.Lock()
	defer s.building.Unlock()
	root := filepath.Join(s.dir, blobsDir)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Nlink > 1 {
			return nil
		}
		return os.Remove(path)
	})
	if err != nil {
		return fmt.Errorf("removing unused blobs: %w", err)
	}
	return nil
}
