package ruby
import ("testing";"fmt")
func TestForks(t *testing.T) {
	r := newRig(t)
	r.compile(r.request("db01.example.test"))
	for _, z := range r.Stats().Zygotes {
		zz := r.zygotes[zygoteKey{z.Environment, z.CodeID}]
		for i := range 50 {
			w, err := zz.fork(t.Context(), r.o.Log)
			if err != nil {
				t.Fatal(i, err)
			}
			w.kill()
		}
	}
	fmt.Println("fine")
}
