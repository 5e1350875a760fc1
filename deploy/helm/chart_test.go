package helm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/yaml"
)

const (
	release   = "limits"
	fullname  = "limits-tierlimit"
	namespace = "shop"
)

// decoder refuses a field that Kubernetes does not know and a field that is given twice.
var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, batchv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// A serviceMonitor has the fields of the Prometheus operator's kind that the chart uses.
type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port     string `json:"port"`
			Path     string `json:"path"`
			Interval string `json:"interval"`
		} `json:"endpoints"`
	} `json:"spec"`
}

// A prometheusRule has the fields of the Prometheus operator's kind that the chart uses.
type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ruleGroups `json:"spec"`
}

type ruleGroups struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Record      string            `json:"record"`
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			For         string            `json:"for"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

// A rendering is what the chart makes of some values.
type rendering struct {
	deployment     *appsv1.Deployment
	services       map[string]*corev1.Service // by name
	budget         *policyv1.PodDisruptionBudget
	serviceAccount *corev1.ServiceAccount
	policy         *networkingv1.NetworkPolicy
	routes         *corev1.ConfigMap
	job            *batchv1.Job
	monitor        *serviceMonitor
	rules          *prometheusRule
	notes          string
}

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load("tierlimit")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// render returns an error for values that the schema or a template refuses.
func render(t *testing.T, values map[string]any) (rendering, error) {
	t.Helper()
	c := loadChart(t)
	// As from a file of values: numbers are float64, and nothing is shared between renderings.
	text, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	values = nil
	if err := json.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: release, Namespace: namespace, IsInstall: true}, nil)
	if err != nil {
		return rendering{}, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return rendering{}, err
	}
	r := rendering{services: map[string]*corev1.Service{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		switch {
		case strings.HasSuffix(name, "NOTES.txt"):
			r.notes = text
		case strings.TrimSpace(text) == "":
		default:
			if err := r.add(text); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, text)
			}
		}
	}
	return r, nil
}

// add decodes a document and notes it. An unknown field and a second object of a kind are errors.
func (r *rendering) add(text string) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
		return err
	}
	if kind.Kind == "ServiceMonitor" {
		r.monitor = new(serviceMonitor)
		return yaml.UnmarshalStrict([]byte(text), r.monitor)
	}
	if kind.Kind == "PrometheusRule" {
		r.rules = new(prometheusRule)
		return yaml.UnmarshalStrict([]byte(text), r.rules)
	}
	object, _, err := decoder.Decode([]byte(text), nil, nil)
	if err != nil {
		return err
	}
	meta := object.(metav1.Object)
	if meta.GetNamespace() != namespace || len(meta.GetName()) > 63 {
		return fmt.Errorf("%s is in the namespace %q", meta.GetName(), meta.GetNamespace())
	}
	again := false
	switch o := object.(type) {
	case *appsv1.Deployment:
		again, r.deployment = r.deployment != nil, o
	case *corev1.Service:
		again, r.services[o.Name] = r.services[o.Name] != nil, o
	case *policyv1.PodDisruptionBudget:
		again, r.budget = r.budget != nil, o
	case *corev1.ServiceAccount:
		again, r.serviceAccount = r.serviceAccount != nil, o
	case *networkingv1.NetworkPolicy:
		again, r.policy = r.policy != nil, o
	case *corev1.ConfigMap:
		again, r.routes = r.routes != nil, o
	case *batchv1.Job:
		again, r.job = r.job != nil, o
	default:
		return fmt.Errorf("no test for the kind %s", kind.Kind)
	}
	if again {
		return errors.New("a second " + kind.Kind)
	}
	return nil
}

type values = map[string]any

// on turns each option of the chart on. off turns off what is on by default.
var (
	on = values{
		"image":            values{"digest": "sha256:" + strings.Repeat("0f", 32)},
		"imagePullSecrets": []any{values{"name": "pull"}},
		"replicas":         3,
		"settings": values{
			"addressHeader": "X-Forwarded-For", "auditRetention": "8760h", "budget": "40ms", "costHeader": "X-Cost",
			"keyHeaders": "X-Api-Key,Authorization", "loadMode": "enforce", "loadSources": "own,api-*", "logFormat": "json", "logLevel": "warn",
			"redisMode": "single", "startTimeout": "60s", "subjectClaim": "sub", "subjectHeader": "X-Subject",
			"checkBudget": "30ms", "grpcBudget": "10ms", "grpcEntries": "subject=tenant,scope=route", "legacyHeaders": "delta-only",
			"accessLog": "on", "historyRetention": "720h", "traceEndpoint": "http://collector:4318", "traceRatio": "0.1",
			"connections": "20000", "connectionsPerAddress": "100",
			"trustedProxies": "10.0.0.0/8,fd00::/8", "upstreamTimeout": "30s", "webhookAllow": "10.0.0.0/8", "guard": "on", "webhookRetry": "10s",
		},
		"drainSeconds": 10,
		"upstream":     "http://api.shop:3000",
		"grpc":         values{"enabled": true},
		"routes": []any{
			values{"pattern": "GET /healthz", "skip": true},
			values{"pattern": "POST /v1/chat/", "scope": "chat", "cost": 2, "costs": values{"tokens": 500}, "hold": "60s"},
		},
		"redisTLS":          values{"existingSecret": "redis-tls", "clientCertificate": true},
		"migrations":        values{"existingSecret": "owner", "databaseUrlKey": "owner-url", "grantTo": "tierlimit_serve"},
		"service":           values{"type": "LoadBalancer", "annotations": values{"a": "b"}, "port": 80, "proxyPort": 81, "grpcPort": 82},
		"adminService":      values{"enabled": true, "port": 82},
		"serviceMonitor":    values{"enabled": true, "labels": values{"prometheus": "main"}},
		"prometheusRule":    values{"enabled": true, "labels": values{"prometheus": "main"}},
		"networkPolicy":     values{"enabled": true, "publicFrom": from("a"), "proxyFrom": from("b"), "grpcFrom": from("d"), "adminFrom": from("c")},
		"serviceAccount":    values{"annotations": values{"a": "b"}},
		"podAnnotations":    values{"a": "b"},
		"podLabels":         values{"team": "edge"},
		"nodeSelector":      values{"kubernetes.io/os": "linux"},
		"tolerations":       []any{values{"key": "edge", "operator": "Exists"}},
		"affinity":          values{"nodeAffinity": values{}},
		"priorityClassName": "high",
	}
	off = values{
		"replicas": 1, "drainSeconds": 0,
		"secretKeys":                values{"redisUrl": "", "serviceToken": ""},
		"migrations":                values{"enabled": false},
		"podDisruptionBudget":       values{"enabled": false},
		"serviceAccount":            values{"create": false},
		"resources":                 values{"requests": values{}, "limits": values{}},
		"topologySpreadConstraints": []any{},
	}
)

func from(app string) []any {
	return []any{values{"podSelector": values{"matchLabels": values{"app": app}}}}
}

// with returns the values that are required, and more.
func with(more values) values {
	all := values{"existingSecret": "limits"}
	maps.Copy(all, more)
	return all
}

// renderings are the default values, all options on, all off, each option on by itself, and all on
// except one.
func renderings() map[string]values {
	all := map[string]values{"default": with(nil), "all on": with(on), "all off": with(off)}
	for option, value := range on {
		if option != "serviceMonitor" { // needs adminService
			all[option+" on"] = with(values{option: value})
		}
		if option != "adminService" {
			rest := maps.Clone(on)
			delete(rest, option)
			all["all on except "+option] = with(rest)
		}
	}
	for option, value := range off {
		all[option+" off"] = with(values{option: value})
	}
	return all
}

func TestEveryTemplateRendersWithAllOptionsOnAndOff(t *testing.T) {
	for name, v := range renderings() {
		t.Run(name, func(t *testing.T) {
			r, err := render(t, v)
			if err != nil {
				t.Fatal(err)
			}
			r.check(t)
		})
	}
	r, err := render(t, with(on))
	if err != nil {
		t.Fatal(err)
	}
	if r.budget == nil || r.serviceAccount == nil || r.policy == nil || r.routes == nil || r.job == nil || r.monitor == nil || r.rules == nil || len(r.services) != 2 {
		t.Errorf("all on: an object is missing: %+v", r)
	}
	r, err = render(t, with(off))
	if err != nil {
		t.Fatal(err)
	}
	if r.budget != nil || r.serviceAccount != nil || r.policy != nil || r.routes != nil || r.job != nil || r.monitor != nil || r.rules != nil || len(r.services) != 1 {
		t.Errorf("all off: too many objects: %+v", r)
	}
}

// check checks what holds for all values.
func (r *rendering) check(t *testing.T) {
	t.Helper()
	pod := &r.deployment.Spec.Template
	selects := func(what string, selector map[string]string) {
		t.Helper()
		if len(selector) == 0 || !labels.SelectorFromSet(selector).Matches(labels.Set(pod.Labels)) {
			t.Errorf("%s selects %v, and pods have %v", what, selector, pod.Labels)
		}
		if r.job != nil && labels.SelectorFromSet(selector).Matches(labels.Set(r.job.Spec.Template.Labels)) {
			t.Errorf("%s selects the pods of the Job too", what)
		}
	}
	selects("the Deployment", r.deployment.Spec.Selector.MatchLabels)
	for name, service := range r.services {
		selects("the Service "+name, service.Spec.Selector)
	}
	if r.budget != nil {
		selects("the PodDisruptionBudget", r.budget.Spec.Selector.MatchLabels)
	}
	if r.policy != nil {
		selects("the NetworkPolicy", r.policy.Spec.PodSelector.MatchLabels)
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		selects("a spread constraint", pod.Spec.TopologySpreadConstraints[i].LabelSelector.MatchLabels)
	}
	if r.monitor != nil && !labels.SelectorFromSet(r.monitor.Spec.Selector.MatchLabels).Matches(labels.Set(r.services[fullname+"-admin"].Labels)) {
		t.Error("the ServiceMonitor does not select the admin Service")
	}
	if r.monitor != nil && labels.SelectorFromSet(r.monitor.Spec.Selector.MatchLabels).Matches(labels.Set(r.services[fullname].Labels)) {
		t.Error("the ServiceMonitor selects the public Service")
	}
	r.checkAdmin(t)
	checkPod(t, &pod.Spec)
	if r.job != nil {
		checkPod(t, &r.job.Spec.Template.Spec)
		if r.job.Annotations["helm.sh/hook"] != "pre-install,pre-upgrade" {
			t.Errorf("the Job has the annotations %v", r.job.Annotations)
		}
	}
	if r.serviceAccount != nil && (r.serviceAccount.AutomountServiceAccountToken == nil || *r.serviceAccount.AutomountServiceAccountToken) {
		t.Error("the ServiceAccount mounts its token")
	}
	main := &pod.Spec.Containers[0]
	for path, probe := range map[string]*corev1.Probe{"/livez": main.LivenessProbe, "/readyz": main.ReadinessProbe} {
		if probe.HTTPGet.Path != path || probe.HTTPGet.Port.String() != "public" {
			t.Errorf("%s is probed by %+v", path, probe)
		}
	}
	var drain int64
	if _, err := fmt.Sscanf(environment(main)["TIERLIMIT_DRAIN"], "%ds", &drain); err != nil || *pod.Spec.TerminationGracePeriodSeconds < drain+25 {
		t.Errorf("a pod that drains for %d s and needs 25 s more has %d s to stop", drain, *pod.Spec.TerminationGracePeriodSeconds)
	}
	if !strings.Contains(r.notes, fullname) {
		t.Errorf("the notes do not name the release: %s", r.notes)
	}
}

// checkAdmin checks that only the admin Service exposes the admin listener.
func (r *rendering) checkAdmin(t *testing.T) {
	t.Helper()
	main := &r.deployment.Spec.Template.Spec.Containers[0]
	admin := r.services[fullname+"-admin"]
	for _, port := range r.services[fullname].Spec.Ports {
		if target := port.TargetPort.String(); target != "public" && target != "proxy" && target != "grpc" {
			t.Errorf("the Service exposes %s", port.TargetPort.String())
		}
	}
	address, listens := environment(main)["TIERLIMIT_ADMIN_ADDR"]
	if admin == nil {
		if listens {
			t.Errorf("there is no admin Service, and pods listen for administration on %s", address)
		}
		for _, port := range main.Ports {
			if port.Name == "admin" || port.ContainerPort == 8081 {
				t.Errorf("there is no admin Service, and the container has the port %+v", port)
			}
		}
		return
	}
	if admin.Spec.Type != corev1.ServiceTypeClusterIP || len(admin.Spec.Ports) != 1 || admin.Spec.Ports[0].TargetPort.String() != "admin" || address != ":8081" {
		t.Errorf("the admin Service is %+v, and pods listen on %s", admin.Spec, address)
	}
}

func environment(c *corev1.Container) map[string]string {
	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	return env
}

// checkPod checks the standard "restricted" and that secrets are files, not variables.
func checkPod(t *testing.T, pod *corev1.PodSpec) {
	t.Helper()
	s := pod.SecurityContext
	if !*s.RunAsNonRoot || *s.RunAsUser != 65532 || *s.FSGroup != 65532 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod has the security context %+v", s)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the pod mounts a token of Kubernetes")
	}
	secrets := map[string][]string{} // the files of a volume
	for _, v := range pod.Volumes {
		if v.Secret == nil {
			continue
		}
		if *v.Secret.DefaultMode != 0o440 {
			t.Errorf("the files of %s have the mode %o", v.Name, *v.Secret.DefaultMode)
		}
		for _, item := range v.Secret.Items {
			secrets[v.Name] = append(secrets[v.Name], item.Path)
		}
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		s := c.SecurityContext
		if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
			t.Errorf("%s has the security context %+v", c.Name, s)
		}
		files := map[string]bool{}
		for _, mount := range c.VolumeMounts {
			if !mount.ReadOnly || mount.SubPath != "" {
				t.Errorf("%s is mounted so that it can be written, or is not followed: %+v", mount.Name, mount)
			}
			for _, file := range secrets[mount.Name] {
				files[mount.MountPath+"/"+file] = true
			}
		}
		if len(c.EnvFrom) > 0 {
			t.Errorf("%s takes variables from %+v", c.Name, c.EnvFrom)
		}
		for _, e := range c.Env {
			name, isFile := strings.CutSuffix(e.Name, "_FILE")
			switch {
			case e.ValueFrom != nil:
				t.Errorf("%s takes a value from %+v", e.Name, e.ValueFrom)
			case isFile && !files[e.Value]:
				t.Errorf("%s=%s: no such secret is mounted", e.Name, e.Value)
			case !isFile && (strings.HasSuffix(name, "_TOKEN") || strings.HasSuffix(name, "_URL")):
				t.Errorf("%s is a secret, and stands in the environment", e.Name)
			}
		}
		if !strings.HasSuffix(environment(&c)["TIERLIMIT_DATABASE_URL_FILE"], "-url") {
			t.Errorf("%s has no database: %v", c.Name, c.Env)
		}
	}
}

func TestTheSchemaRefusesWrongValues(t *testing.T) {
	for name, v := range map[string]values{
		"replica":                    {"replica": 2},
		"replicas":                   {"replicas": "two"},
		"adminService":               {"adminService": values{"enable": true}},
		"settings":                   {"settings": values{"adminToken": "0123456789abcdef"}},
		"settings.loadMode":          {"settings": values{"loadMode": "on"}},
		"settings.loadSources":       {"settings": values{"loadSources": "own,API"}},
		"settings.budget":            {"settings": values{"budget": "50"}},
		"settings.redisMode":         {"settings": values{"redisMode": "primary"}},
		"drainSeconds":               {"drainSeconds": 61},
		"upstream":                   {"upstream": "http://user:secret@api"},
		"routes.0":                   {"routes": []any{values{"patern": "GET /"}}},
		"secretKeys.adminToken":      {"secretKeys": values{"adminToken": ""}},
		"service.type":               {"service": values{"type": "ExternalName"}},
		"service.port":               {"service": values{"port": 70000}},
		"image.digest":               {"image": values{"digest": "sha256:1"}},
		"podDisruptionBudget":        {"podDisruptionBudget": values{"maxUnavailable": "half"}},
		"settings.connections":       {"settings": values{"connections": "many"}},
		"settings.grpcEntries":       {"settings": values{"grpcEntries": "tenant"}},
		"serviceMonitor needs":       {"serviceMonitor": values{"enabled": true}},
		"prometheusRule":             {"prometheusRule": values{"rules": values{}}},
		"existingSecret":             {"existingSecret": "Not_A_Name"},
		"existingSecret is required": {"existingSecret": ""},
		"resources":                  {"resources": values{"limit": values{}}},
		"networkPolicy.publicFrom":   {"networkPolicy": values{"publicFrom": "all"}},
		"topologySpreadConstraints":  {"topologySpreadConstraints": "none"},
		"migrations.timeoutSeconds":  {"migrations": values{"timeoutSeconds": 0}},
		"redisTLS":                   {"redisTLS": values{"caFile": "ca.pem"}},
		"serviceAccount":             {"serviceAccount": values{"automount": true}},
	} {
		_, err := render(t, with(v))
		says := strings.NewReplacer(".", "", "/", "", " ", "")
		if err == nil || !strings.Contains(says.Replace(err.Error()), says.Replace(name)) {
			t.Errorf("%s: %v is answered with: %v", name, v, err)
		}
	}
}

// `tierlimit config` refuses what `tierlimit serve` would refuse.
func TestTheProgramAcceptsWhatTheChartSets(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "tierlimit")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "../..", "-o", binary, "./cmd/tierlimit")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, v := range map[string]values{"default": with(nil), "all on": with(on), "all off": with(off)} {
		r, err := render(t, v)
		if err != nil {
			t.Fatal(err)
		}
		root := t.TempDir()
		for file, text := range map[string]string{
			"secrets/database-url": "postgres://u:p@db/tierlimit", "secrets/redis-url": "rediss://u:p@redis:6379/0",
			"secrets/admin-token": "0123456789abcdef", "secrets/service-token": "fedcba9876543210",
		} {
			write(t, filepath.Join(root, file), text)
		}
		if r.routes != nil {
			write(t, filepath.Join(root, "routes/routes.yaml"), r.routes.Data["routes.yaml"])
		}
		certificate, key := selfSigned(t)
		write(t, filepath.Join(root, "redis/ca.crt"), certificate)
		write(t, filepath.Join(root, "redis/tls.crt"), certificate)
		write(t, filepath.Join(root, "redis/tls.key"), key)
		config := exec.CommandContext(t.Context(), binary, "config")
		want := map[string]string{}
		for name, value := range environment(&r.deployment.Spec.Template.Spec.Containers[0]) {
			config.Env = append(config.Env, name+"="+strings.Replace(value, "/etc/tierlimit", root, 1))
			want[name] = name
		}
		out, err := config.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		for name := range want {
			if !fromVariable(string(out), name) {
				t.Errorf("%s: the program does not know %s:\n%s", name, name, out)
			}
		}
	}
}

// selfSigned returns a certificate and its key in PEM.
func selfSigned(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

// fromVariable reports whether a line of `tierlimit config` ends with the variable as its source.
func fromVariable(config, variable string) bool {
	for line := range strings.Lines(config) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[len(fields)-1] == variable {
			return true
		}
	}
	return false
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A chart can hold only files of its own folder, so its rules are a copy.
func TestTheChartHasTheRulesOfPrometheus(t *testing.T) {
	want, err := os.ReadFile("../prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("tierlimit/files/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Error("the rules differ: cp deploy/prometheus/rules.yaml deploy/helm/tierlimit/files/rules.yaml")
	}
	r, err := render(t, with(values{"prometheusRule": values{"enabled": true, "labels": values{"prometheus": "main"}}}))
	if err != nil {
		t.Fatal(err)
	}
	var all ruleGroups
	if err := yaml.UnmarshalStrict(want, &all); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r.rules.Spec, all) || len(all.Groups) == 0 {
		t.Errorf("the object has the rules %+v", r.rules.Spec)
	}
	if r.rules.Namespace != namespace || r.rules.Labels["prometheus"] != "main" {
		t.Errorf("the object is %+v", r.rules.ObjectMeta)
	}
}

// The options that are on in these tests are all that there are.
func TestTheTestsKnowEveryOption(t *testing.T) {
	var schema struct {
		Properties map[string]struct{ Properties map[string]any } `json:"properties"`
	}
	c := loadChart(t)
	if err := json.Unmarshal(c.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	for option, of := range schema.Properties {
		_, isOn := on[option]
		_, isOff := off[option]
		if !isOn && !isOff && !slices.Contains([]string{"global", "existingSecret", "nameOverride", "fullnameOverride"}, option) {
			t.Errorf("no test knows %s", option)
		}
		if _, has := c.Values[option]; !has && option != "global" && option != "topologySpreadConstraints" {
			t.Errorf("values.yaml does not show %s", option)
		}
		if option != "settings" {
			continue
		}
		for setting := range of.Properties {
			if _, isOn := on["settings"].(values)[setting]; !isOn {
				t.Errorf("no test knows settings.%s", setting)
			}
		}
	}
}
