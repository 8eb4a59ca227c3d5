// Renders each template of cases.txt as Sealed Secrets does: a SealedSecret is sealed and unsealed with its own code.
package main

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"log"
	"maps"
	"os"
	"strings"
	"text/template"
	"unicode/utf8"

	"github.com/Masterminds/sprig/v3"
	"github.com/bitnami/sealed-secrets/pkg/apis/sealedsecrets/v1alpha1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
)

// The values that every template sees.
var values = map[string]string{
	"user":    "alice",
	"pw":      "s3cr\"t <&'> pass\\word",
	"empty":   "",
	"multi":   "line one\nline two\n\nline four",
	"json":    `{"b":[1,2.5,"x",null,true],"a":{"deep":{"er":"value"}},"n":12345678,"s":"<t&g>"}`,
	"list":    "delta,alpha,charlie,bravo,alpha",
	"number":  "42",
	"unicode": "Grüße, 世界! ß é ǆ",
	"binary":  "\xff\x00\x80ok",
	"url":     "https://bob:p%40ss@example.com:8443/a%20b/c?q=1&r=2#frag",
	"b64":     "aGVsbG8gd29ybGQ=",
	"version": "v1.2.3-beta.1+build.5",
	"words":   "the quick brown fox jumps over the lazy dog",
	"camel":   "someHTTPServer2Name",
	"dashed":  "a-dashed_name here",
}

type outcome struct {
	Template string  `json:"template"`
	Output   *string `json:"output,omitempty"`
	Error    *string `json:"error,omitempty"`
	// What is said where a missing key is an error and nothing else is.
	Missing *string `json:"missing,omitempty"`
}

func main() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		log.Fatal(err)
	}
	codecs := serializer.NewCodecFactory(scheme.Scheme)
	data := map[string][]byte{}
	for name, value := range values {
		data[name] = []byte(value)
	}
	sealed, err := v1alpha1.NewSealedSecret(codecs, &key.PublicKey, &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "name", Namespace: "namespace"},
		Data:       data,
	})
	if err != nil {
		log.Fatal(err)
	}
	keys := map[string]*rsa.PrivateKey{"key": key}

	table := struct {
		Values map[string]string `json:"values"`
		Cases  []outcome         `json:"cases"`
	}{Values: map[string]string{}}
	for name, value := range values {
		table.Values[name] = quoted(value)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		// A line of the file is one template: \n is written as the character ␤.
		text := strings.ReplaceAll(line, "␤", "\n")
		sibling := "raw {{ .user }}"
		sealed.Spec.Template.Data = map[string]*string{"out": &text, "sibling": &sibling}
		result := outcome{Template: text}
		secret, err := sealed.Unseal(codecs, keys)
		if err != nil {
			said := err.Error()
			result.Error = &said
		} else {
			rendered := quoted(string(secret.Data["out"]))
			result.Output = &rendered
			result.Missing = missing(text, sibling)
		}
		table.Cases = append(table.Cases, result)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(table); err != nil {
		log.Fatal(err)
	}
}

// Sealed Secrets has no option for missing keys, but its engine has: the same engine and functions, told to be strict.
func missing(text, sibling string) *string {
	functions := sprig.GenericFuncMap()
	for _, name := range []string{"env", "expandenv", "getHostByName"} {
		delete(functions, name)
	}
	dot := maps.Clone(values)
	dot["out"], dot["sibling"] = text, sibling
	parsed, err := template.New("out").Option("missingkey=error").Funcs(functions).Parse(text)
	if err == nil {
		err = parsed.Execute(io.Discard, dot)
	}
	if err == nil {
		return nil
	}
	said := err.Error()
	return &said
}

// JSON holds no bytes that are not UTF-8: those become one character each, from U+E000 on.
func quoted(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var out strings.Builder
	for len(text) > 0 {
		char, width := utf8.DecodeRuneInString(text)
		if char == utf8.RuneError && width == 1 {
			char = rune(0xE000 + int(text[0]))
		}
		out.WriteString(string(char))
		text = text[width:]
	}
	return out.String()
}
