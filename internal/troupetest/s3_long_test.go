//go:build long

package troupetest

// This story keeps backups in a real S3 server. Its binary is built from its Go module, which takes a minute or two the first time.

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An s3Server is versitygw on a folder, with two users of whom one has no rights.
type s3Server struct {
	t            *testing.T
	root         string
	env, noRight []string
}

func startS3(t *testing.T) *s3Server {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "versitygw")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/versity/versitygw/cmd/versitygw")
	build.Dir = filepath.Join(moduleRoot(t), "tools", "versitygw")
	run(t, build)
	addr, _ := MemberPort(t)
	url := "http://" + addr
	s := &s3Server{t: t, root: TempDir(t)}
	iam := t.TempDir()
	for _, bucket := range []string{"backups", "others"} {
		mkdir(t, filepath.Join(s.root, bucket))
	}
	server := exec.Command(binary, "--quiet", "--port", addr, "--iam-dir", iam, "posix", s.root)
	server.Env = append(os.Environ(), "ROOT_ACCESS_KEY=admin", "ROOT_SECRET_KEY=adminsecret")
	p := startProcess(t, "versitygw", filepath.Join(t.TempDir(), "log"), server)
	Eventually(t, Patience, "versitygw answers", func() bool {
		if p.ended() {
			t.Fatal("versitygw has ended")
		}
		answer, err := http.Get(url)
		if err == nil {
			answer.Body.Close()
		}
		return err == nil
	})
	run(t, exec.CommandContext(t.Context(), binary, "admin", "-a", "admin", "-s", "adminsecret", "-er", url, "create-user", "-a", "guest", "-s", "guestsecret", "-r", "user"))
	at := "AWS_ENDPOINT_URL=" + url
	s.env = []string{at, "AWS_ACCESS_KEY_ID=admin", "AWS_SECRET_ACCESS_KEY=adminsecret"}
	s.noRight = []string{at, "AWS_ACCESS_KEY_ID=guest", "AWS_SECRET_ACCESS_KEY=guestsecret"}
	return s
}

// objects are the files of the bucket, and what is left of uploads.
func (s *s3Server) objects() (all []string) {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Join(s.root, "backups"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// TestATroupeBeginsAgainFromItsBucketAlone loses both members. What a machine is given is the bucket and the passphrase.
func TestATroupeBeginsAgainFromItsBucketAlone(t *testing.T) {
	s3 := startS3(t)
	place, secret := "s3://backups/troupe", passphraseFile(t)
	east, west := twoSites(t, "")
	veteran := enrolled(t, east, Puppet7, "veteran.example.test")
	leaver := west.Generate("leaver.example.test")
	west.MustCLI("ca", "revoke", "--certname", "leaver.example.test")
	Eventually(t, Patience, "east knows of the revocation", func() bool { return east.Certificates()["leaver.example.test"].State == "revoked" })

	create := []string{"backup", "create", "--to", place, "--passphrase-file", secret, "--data", east.Data}
	// Without rights, with a wrong secret, into a bucket that is not there: words, nothing stored, and agents are served.
	for want, env := range map[string][]string{
		"may not write to":          s3.noRight,
		"does not take the":         append(s3.env[:2:2], "AWS_SECRET_ACCESS_KEY=wrong"),
		"there are no credentials":  {s3.env[0], "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "HOME=" + t.TempDir()},
		"cannot be reached":         append(s3.env[1:3:3], "AWS_ENDPOINT_URL=http://127.0.0.1:1"),
		"there is no bucket nosuch": s3.env,
	} {
		args := append([]string{}, create...)
		if strings.HasSuffix(want, "nosuch") {
			args[3] = "s3://nosuch/troupe"
		}
		if status, _, words := troupe(t, env, args...); status != 1 || !strings.Contains(words, want) {
			t.Errorf("exit %d, want the words %q:\n%s", status, want, words)
		}
	}
	if left := s3.objects(); len(left) > 0 {
		t.Errorf("failed backups have left %v", left)
	}
	veteran.Run().want(t, 0, "a run after backups that failed")

	var made struct {
		Name    string
		Size    int64
		Seconds float64
	}
	if err := json.Unmarshal([]byte(mustTroupe(t, s3.env, append(create, "-o", "json")...)), &made); err != nil {
		t.Fatal(err)
	}
	t.Logf("a backup of %d bytes in %.1f s", made.Size, made.Seconds)
	if out := mustTroupe(t, s3.env, "backup", "list", "--from", place); !strings.Contains(out, made.Name) || !strings.Contains(out, " whole ") {
		t.Errorf("list: %s", out)
	}
	mustTroupe(t, s3.env, "backup", "verify", "--from", place, "--passphrase-file", secret)
	if status, _, words := troupe(t, s3.noRight, "backup", "verify", made.Name, "--from", place, "--passphrase-file", secret); status != 1 || !strings.Contains(words, "may not read") {
		t.Errorf("verify without rights: exit %d %s", status, words)
	}

	// A newer one that was cut off on its way does not count.
	whole, err := os.ReadFile(s3.objects()[0])
	if err != nil {
		t.Fatal(err)
	}
	mustTroupe(t, s3.env, create...)
	for _, path := range s3.objects() {
		if !strings.HasSuffix(path, made.Name) {
			if err := os.Truncate(path, int64(len(whole)/2)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out := mustTroupe(t, s3.env, "backup", "list", "--from", place); strings.Count(out, "NOT WHOLE") != 1 {
		t.Errorf("list: %s", out)
	}

	east.Kill()
	west.Kill()
	for _, s := range []*Server{east, west} {
		if err := os.RemoveAll(s.Data); err != nil {
			t.Fatal(err)
		}
	}
	_, config := MemberPort(t)
	file := filepath.Join(TempDir(t), "troupe.yaml")
	writeFile(t, file, config)
	data := filepath.Join(TempDir(t), "data")
	join := []string{"join", "--from", place, "--data", data, "--config", file, "--certname", "north.example.test", "--site", "north", "--alone", "--passphrase-file"}
	wrong := passphraseFile(t)
	writeFile(t, wrong, "not the passphrase\n")
	if status, _, words := troupe(t, s3.env, append(join, wrong)...); status != 1 || !strings.Contains(words, "the passphrase is not the one") {
		t.Errorf("join with a wrong passphrase: exit %d %s", status, words)
	}
	mustTroupe(t, s3.env, append(join, secret)...)
	north := StartServer(t, ServerOptions{Certname: "north.example.test", Data: data, Config: config, Environments: filepath.Join(data, "code", "environments"), Autosign: true})
	veteran.Server = north.Addr
	veteran.Run().want(t, 0, "a run with the old certificate at the new troupe")
	if answer, err := north.Client(leaver).Get(north.URL("/puppet/v3/node/leaver.example.test")); err == nil {
		answer.Body.Close()
		t.Errorf("the revoked leaver gets %s", answer.Status)
	}
	if m := north.members(); len(m) != 1 || m["north.example.test"].Site != "north" {
		t.Errorf("members: %+v", m)
	}

	// It is a troupe: the next machine comes by a token, and signs under the same CA.
	_, southPort := MemberPort(t)
	south := StartServer(t, ServerOptions{Certname: "south.example.test", Data: Join(t, north, "south", "south.example.test", southPort), Config: southPort, Environments: site, Autosign: true})
	south.Generate("recruit.example.test")
	Eventually(t, Patience, "what the second signs is known to the first", func() bool { return north.Certificates()["recruit.example.test"].State == "signed" })
	veteran.Server = south.Addr
	veteran.Run().want(t, 0, "a run at the machine that came by a token")
	for _, s := range []*Server{north, south} {
		s.MustCLI("journal", "verify")
	}
}
