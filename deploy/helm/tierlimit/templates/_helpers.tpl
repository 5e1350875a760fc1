{{- define "tierlimit.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* The name of the release's objects. Suffixes such as -migrate have to fit into 63 bytes. */ -}}
{{- define "tierlimit.fullname" -}}
{{- $name := include "tierlimit.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tierlimit.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tierlimit.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* The labels that select the pods of serve. They never change. */ -}}
{{- define "tierlimit.selector" -}}
app.kubernetes.io/name: {{ include "tierlimit.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: serve
{{- end -}}

{{- define "tierlimit.labels" -}}
app.kubernetes.io/name: {{ include "tierlimit.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "tierlimit.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* What the namespace standard "restricted" asks for. */ -}}
{{- define "tierlimit.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tierlimit.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* The key of the URL that migrates. */ -}}
{{- define "tierlimit.migrateKey" -}}
{{- if .Values.migrations.existingSecret -}}
{{- .Values.migrations.databaseUrlKey -}}
{{- else -}}
{{- .Values.secretKeys.databaseUrl -}}
{{- end -}}
{{- end -}}

{{- /* A container of the Job. Input: root, name, args. */ -}}
{{- define "tierlimit.migrate" -}}
- name: {{ .name }}
  image: {{ include "tierlimit.image" .root | quote }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args: {{ toJson .args }}
  env:
    - {name: TIERLIMIT_DATABASE_URL_FILE, value: {{ printf "/etc/tierlimit/secrets/%s" (include "tierlimit.migrateKey" .root) | quote }}}
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 256Mi}
  securityContext:
    {{- include "tierlimit.containerSecurity" .root | nindent 4 }}
  volumeMounts:
    - {name: secrets, mountPath: /etc/tierlimit/secrets, readOnly: true}
{{- end -}}
